"""The ASGI server at its end: it closes every connection, whenever it was made."""

import asyncio
import contextlib
import gc
import socket
import warnings

import pytest
from starlette.applications import Starlette

from nsai_work.asgi_server import bound_socket, serving_app

WAIT_S = 10.0


@pytest.mark.parametrize("turns", range(8))
def test_a_connection_that_is_being_accepted_at_the_end_is_closed(turns: int) -> None:
    """``turns`` of the event loop lie between the client's connecting and the end of the server."""

    async def connect_and_stop() -> socket.socket:
        with bound_socket("127.0.0.1", 0) as listening:
            async with serving_app(Starlette(), listening):
                client = socket.create_connection(listening.getsockname(), timeout=WAIT_S)
                for _ in range(turns):
                    await asyncio.sleep(0)
        return client

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.run(connect_and_stop()) as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
