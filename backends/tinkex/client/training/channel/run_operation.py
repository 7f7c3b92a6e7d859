"""A client call on a run: consecutive requests that yield a single result."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.training.channel.sequencer import RequestSequencer, Ticket
from backends.tinkex.types.responses import AcceptedRequest
from crucible.runtime.side_by_side import side_by_side

T = TypeVar("T")


class RunOperation(Generic[T]):
    """A call that sends ``count`` requests in one turn and combines their results.

    ``send_request(seq_id, index)`` sends request number ``index``; ``read_result`` waits for the results of all
    accepted requests; ``before_send`` runs once the operation has its turn.
    """

    def __init__(
        self,
        sequencer: RequestSequencer,
        count: int,
        seq_id: int | None,
        send_request: Callable[[int, int], Coroutine[Any, Any, AcceptedRequest]],
        read_result: Callable[[Sequence[AcceptedRequest]], Coroutine[Any, Any, T]],
        before_send: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._sequencer = sequencer
        self._count = count
        self._seq_id = seq_id
        self._send_request = send_request
        self._read_result = read_result
        self._before_send = before_send
        self._accepted: list[AcceptedRequest] = []
        self._finished: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._abandoned = False

    @property
    def request_ids(self) -> list[str]:
        """The server's ids of the accepted requests."""
        return [accepted.request_id for accepted in self._accepted]

    def reserve(self) -> Ticket:
        """Reserve the sequence numbers. Requires the sequencer's lock."""
        return self._sequencer.reserve(self._count, self._seq_id)

    async def send(self, ticket: Ticket) -> None:
        """Send all requests in turn; return once the server has accepted them.

        Nothing may cancel this but the end of the event loop: a number that is left out holds up those behind it.
        """
        self._loop = asyncio.get_running_loop()
        async with self._sequencer.turn(ticket):
            await self._before_send()
            if self._sequencer.sends_ahead(ticket):
                await self._send_side_by_side(ticket)
            else:
                for index, seq_id in enumerate(ticket.seq_ids):
                    self._accepted.append(await self._send_request(seq_id, index))
                    ticket.accepted += 1
            self._send_request = _already_sent  # whose batch, and its memory, are no longer needed
            self._finished = self._sequencer.mark_accepted()
            if self._abandoned:
                self._finished.set()

    async def _send_side_by_side(self, ticket: Ticket) -> None:
        calls = [partial(self._send_request, seq_id, index) for index, seq_id in enumerate(ticket.seq_ids)]
        self._accepted += await side_by_side(calls)
        ticket.accepted = ticket.count

    async def finish(self, sending: ApiFuture[None]) -> T:
        """Wait until ``send`` has returned, and for the result of the accepted requests."""
        await sending
        return await self._read_result(self._accepted)

    def abandon(self) -> None:
        """Stop later operations from waiting for this result. Usable from threads, and after the result."""
        self._abandoned = True
        if self._finished is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._finished.set)


async def _already_sent(seq_id: int, index: int) -> AcceptedRequest:
    raise AssertionError(f"request {index} (seq_id {seq_id}) is sent once")
