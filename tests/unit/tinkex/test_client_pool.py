"""The pool of HTTP clients of an event loop."""

import asyncio
from contextlib import ExitStack

from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.client_pool import ClientPool


def test_a_request_may_outlive_the_clients_of_its_pool() -> None:
    """The pool is closed, and used again, while a request still ends: it frees no place of the new clients."""

    async def scenario() -> None:
        pool = ClientPool(Endpoint("http://127.0.0.1:1", None))
        with pool.lease():
            await pool.aclose()
        with pool.lease():
            await pool.aclose()
            with pool.lease() as first:
                pass
        with ExitStack() as leases:
            taken = [leases.enter_context(pool.lease()) for _ in range(9)]
        assert [client is first for client in taken] == [True] * 8 + [False]
        await pool.aclose()

    asyncio.run(scenario())
