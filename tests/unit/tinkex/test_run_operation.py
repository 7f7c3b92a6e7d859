"""Operations of one run: pipelined where the server keeps their order, one at a time where it may not."""

import asyncio
from collections.abc import Sequence

import pytest

from backends.tinkex import ServiceClient
from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.session import Session
from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.client.training.channel.sequencer import RequestSequencer
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.features import FeatureMemory, ServerFeatures
from crucible.errors import BackendUnavailable


class Server:
    """Accepts at once; results come when they are let go."""

    def __init__(self, *, keeps_order: bool) -> None:
        self.sequencer = RequestSequencer(one_at_a_time=lambda: not keeps_order)
        self.log: list[str] = []
        self.results: dict[int, asyncio.Future[str]] = {}

    def operation(self) -> "tuple[RunOperation[str], ApiFuture[None]]":
        """An operation that is being sent."""
        made = RunOperation(self.sequencer, 1, None, self._send, self._read, self._before)
        ticket = made.reserve()
        self.results[ticket.first] = asyncio.get_running_loop().create_future()
        return made, ApiFuture(asyncio.create_task(made.send(ticket)))

    async def _before(self) -> None:
        pass

    async def _send(self, seq_id: int, index: int) -> AcceptedRequest:
        self.log.append(f"sent {seq_id}")
        return AcceptedRequest(request_id=str(seq_id))

    async def _read(self, accepted: Sequence[AcceptedRequest]) -> str:
        return await self.results[int(accepted[0].request_id)]


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("keeps_order", "sent"), [(True, ["sent 1", "sent 2"]), (False, ["sent 1"])])
def test_the_second_waits_for_the_first_ones_result_only_where_it_must(keeps_order: bool, sent: list[str]) -> None:
    """A server that keeps no record may run an optimizer step before its gradients, if both lie in its queue."""

    async def scene() -> None:
        server = Server(keeps_order=keeps_order)
        (first, sending), (second, following) = server.operation(), server.operation()
        await sending
        result = asyncio.create_task(first.finish(sending))
        result.add_done_callback(lambda _: first.abandon())
        await settled()
        assert server.log == sent

        server.results[1].set_result("gradients")
        server.results[2].set_result("stepped")

        assert await result == "gradients"
        await following
        assert await second.finish(following) == "stepped"
        assert server.log == ["sent 1", "sent 2"]

    asyncio.run(scene())


@pytest.mark.parametrize("how", ["failed", "abandoned", "abandoned before it was accepted"])
def test_one_that_comes_to_nothing_keeps_nobody_waiting(how: str) -> None:
    """A result that failed, or that nobody waits for any more, is an end like any other."""

    async def scene() -> None:
        server = Server(keeps_order=False)
        first, sending = server.operation()
        if how == "abandoned before it was accepted":
            first.abandon()
        _, following = server.operation()
        await sending
        if how == "failed":
            server.results[1].set_exception(BackendUnavailable("away"))
            with pytest.raises(BackendUnavailable):
                await first.finish(sending)
        first.abandon()

        async with asyncio.timeout(5):
            await following
        assert server.log == ["sent 1", "sent 2"]

    asyncio.run(scene())


@pytest.mark.parametrize("keeps_record", [True, False])
@pytest.mark.parametrize("turns", [0, 1, 3, 10], ids="after {} turns of the loop".format)
def test_a_canceled_call_leaves_no_gap(turns: int, keeps_record: bool) -> None:
    """Its request is sent under its number, before or after the cancellation, and those behind it have results: a
    server that runs requests by number would hold them until the missing one comes."""

    async def scene() -> list[int]:
        url = "http://127.0.0.1:9"
        memory = FeatureMemory(ServerFeatures(server=url, replays_seq_id=keeps_record))
        service = ServiceClient.on_caller_loop("tml-test", url, memory=memory)
        session = Session(service.connection)
        channel = RunChannel(service, model_id="m", session=session, config=ClientConfig())
        sent: list[int] = []

        async def send(seq_id: int, index: int) -> AcceptedRequest:
            await asyncio.sleep(0)
            sent.append(seq_id)
            return AcceptedRequest(request_id=str(seq_id))

        async def read(accepted: Sequence[AcceptedRequest]) -> str:
            return accepted[0].request_id

        futures = [channel.start(channel.operation(1, None, send, read)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        futures[1].cancel()
        async with asyncio.timeout(5):
            assert await futures[2] == "3"
        return sent

    assert asyncio.run(scene()) == [1, 2, 3]
