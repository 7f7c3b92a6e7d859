"""The pool of HTTP clients of an event loop."""

import asyncio
from contextlib import ExitStack

import pytest

from backends.tinkex.errors import ClientClosed
from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.client_pool import ClientPool


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
