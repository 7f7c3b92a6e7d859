"""A request that is cancelled while it connects leaves no connection open."""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable

import pytest

from backends.openai.backend import OpenAIBackend
from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.client_pool import ClientPool
from crucible import Prompt

TIMEOUT_S = 60
Request = Callable[[str], Awaitable[None]]


async def pooled(address: str) -> None:
    pool = ClientPool(Endpoint(address, None))
    try:
        with pool.lease() as client:
            await client.get(address)
    finally:
        await pool.aclose()


async def unpooled(address: str) -> None:
    pool = ClientPool(Endpoint(address, None))
    try:
        with pool.lease(fresh=True) as client:
            await client.get(address)
    finally:
        await pool.aclose()


async def elsewhere(address: str) -> None:
    pool = ClientPool(Endpoint("http://127.0.0.1:1", None))
    try:
        with pool.lease_for(address) as client:
            await client.get(address)
    finally:
        await pool.aclose()


async def openai(address: str) -> None:
    backend = OpenAIBackend({"base_url": f"{address}/v1", "api_key": "k", "models": ["m"], "max_retries": 0})
    await backend.open()
    try:
        await backend.complete(
            Prompt.model_validate({"messages": [{"role": "user", "content": "a"}], "options": {"model": "m"}})
        )
    finally:
        await backend.close()


async def end_of_connection(request: Request) -> bytes:
    """Cancel a request in its TLS handshake, which the server does not answer. Returns what the server reads then:
    nothing at the end of the connection."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        asking = asyncio.ensure_future(request(f"https://127.0.0.1:{listening.getsockname()[1]}"))
        connection, _ = await asyncio.wait_for(loop.sock_accept(listening), TIMEOUT_S)
        with connection:
            hello = await asyncio.wait_for(loop.sock_recv(connection, 65_536), TIMEOUT_S)
            assert hello[0] == 22, "the first record of a handshake"
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            return await asyncio.wait_for(loop.sock_recv(connection, 65_536), TIMEOUT_S)


@pytest.mark.parametrize("request_of", [pooled, unpooled, elsewhere, openai])
def test_a_request_that_is_cancelled_in_its_handshake_closes_its_connection(request_of: Request) -> None:
    """At once, not when its memory is collected."""
    gc.disable()
    try:
        assert asyncio.run(end_of_connection(request_of)) == b""
    finally:
        gc.enable()
