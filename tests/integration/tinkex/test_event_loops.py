"""Blocking and async callers: event loops, threads and forks."""

import asyncio
import math
import os
import signal
import threading

import pytest
from tinkex_runs import ADAM, new_run

from backends.tinkex import ServiceClient
from backends.tinkex.errors import ClientClosed, WrongLoop
from backends.tinkex.types import Datum
from backends.tinkex_dev.server import DevServer


def test_two_phases_on_one_loop(server: DevServer, batch: list[Datum]) -> None:
    """``submit`` returns when the server has the request; nothing runs on another thread."""

    async def scenario() -> list[float]:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            client = await service.create_lora_training_client_async("tiny-lm", rank=4, seed=0)
            pending = []
            for _ in range(3):
                future = await client.submit_forward_backward(batch, "cross_entropy")
                assert future.request_id is not None
                await client.submit_optim_step(ADAM)
                pending.append(future)
            saved = await (await client.submit_save_state("a"))
            assert saved.path.endswith("/weights/a")
            assert not any(thread.name == "tinkex" for thread in threading.enumerate() if thread not in before)
            return [(await one).metrics["loss:sum"] for one in pending]

    before = set(threading.enumerate())
    losses = asyncio.run(scenario())
    assert losses[0] > losses[-1]
    assert all(map(math.isfinite, losses))


def test_many_runs_share_one_loop(server: DevServer, batch: list[Datum]) -> None:
    """Sessions are their own, connections are shared, and the runs do not disturb each other."""

    async def one(service: ServiceClient) -> float:
        mine = service.with_new_session()
        client = await mine.create_lora_training_client_async("tiny-lm", rank=4, seed=0)
        for _ in range(2):
            future = await client.submit_forward_backward(batch, "cross_entropy")
            await client.submit_optim_step(ADAM)
        loss = (await future).metrics["loss:sum"]
        await mine.end_sessions()
        return loss

    async def scenario() -> list[float]:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            return await asyncio.gather(*(one(service) for _ in range(20)))

    assert len(set(asyncio.run(scenario()))) == 1


def test_blocking_futures_can_be_awaited(service: ServiceClient, batch: list[Datum]) -> None:
    """The same client serves blocking code and a loop of the caller's."""
    client = new_run(service)

    async def scenario() -> float:
        future = client.forward_backward(batch, "cross_entropy")
        await client.submit_optim_step(ADAM)
        assert (await client) is client
        assert (await future.result_async(30)).metrics == (await future).metrics
        other = await service.create_lora_training_client_async("tiny-lm", rank=4, seed=0)
        return (await other.forward(batch, "cross_entropy")).metrics["loss:sum"]

    assert asyncio.run(scenario()) > 0
    assert client.result() is client


def test_blocking_on_the_callers_loop_is_refused(server: DevServer) -> None:
    """Instead of waiting for itself for ever."""

    async def scenario() -> None:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            with pytest.raises(WrongLoop):
                service.create_lora_training_client("tiny-lm")
            future = service.get_server_capabilities()
            with pytest.raises(WrongLoop):
                future.result()
            await future
            assert future.result().model_names

    asyncio.run(scenario())
    with pytest.raises(WrongLoop):
        ServiceClient.on_caller_loop("tml-test", server.url).get_server_capabilities()


def test_a_forked_child_has_its_own_loop_and_session(service: ServiceClient, batch: list[Datum]) -> None:
    """A client that was used before a fork works in the child, in a session of its own."""
    new_run(service)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        signal.alarm(30)
        try:
            client = new_run(service)
            loss = client.forward(batch, "cross_entropy").result(20).metrics["loss:sum"]
            os.write(writer, f"{service.session_id} {loss}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        session, _, loss = pipe.read().partition(" ")
    os.waitpid(child, 0)

    assert float(loss) > 0
    assert session != service.session_id


def test_nothing_goes_on_after_the_end(server: DevServer) -> None:
    """Not the heartbeats of a client that shares the closed connections, nor polls for results."""

    async def scenario() -> set["asyncio.Task[object]"]:
        service = ServiceClient.on_caller_loop("tml-test", server.url, heartbeat_s=0.05)
        twin = service.with_new_session()
        client = await twin.create_lora_training_client_async("tiny-lm", rank=1)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await service.aclose()
        with pytest.raises(ClientClosed):
            await client.get_info()
        return (await asyncio.wait(others, timeout=30))[1]

    assert asyncio.run(scenario()) == set()
