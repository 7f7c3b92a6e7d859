"""The pool of HTTP clients of an event loop."""

import asyncio
from contextlib import ExitStack, nullcontext
from typing import Any

import httpx
import pytest

from backends.tinkex.errors import ClientClosed
from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.client_pool import ClientPool
from backends.tinkex.wire.transport import HttpLimits, HttpTransport


def test_a_client_is_added_when_all_are_busy() -> None:
    async def scenario() -> None:
        pool = ClientPool(Endpoint("http://127.0.0.1:1", None))
        with pool.lease() as first:
            pass
        with ExitStack() as leases:
            taken = [leases.enter_context(pool.lease()) for _ in range(9)]
        assert [client is first for client in taken] == [True] * 8 + [False]
        await pool.aclose()

    asyncio.run(scenario())


def test_a_request_may_outlive_its_pool_and_none_begins_after_it() -> None:
    async def scenario() -> None:
        pool = ClientPool(Endpoint("http://127.0.0.1:1", None))
        with pool.lease():
            await pool.aclose()
        for refused in (pool.lease, lambda: pool.lease(fresh=True), lambda: pool.lease_for("http://127.0.0.1:2")):
            with pytest.raises(ClientClosed), refused():
                pass

    asyncio.run(scenario())


def test_a_download_may_take_as_long_as_any_other_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would give up after five seconds without a byte."""
    limits: list[Any] = []

    def answered(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"])
        return httpx.Response(200, content=b"x")

    async def scenario() -> None:
        transport = HttpTransport(
            Endpoint("http://127.0.0.1:1", None), limits=HttpLimits(connect_timeout_s=7, read_timeout_s=70)
        )
        async with httpx.AsyncClient(transport=httpx.MockTransport(answered)) as client:
            monkeypatch.setattr(ClientPool, "lease_for", lambda pool, url: nullcontext(client))
            blocks = [block async for block in transport.download("http://127.0.0.1:1/a", authenticated=False)]
        assert blocks == [b"x"]

    asyncio.run(scenario())
    assert [(found["read"], found["connect"], found["pool"]) for found in limits] == [(70, 7, None)]
