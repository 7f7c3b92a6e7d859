"""The uvicorn server around the application, with access to connections for faults."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.http.app import application
from backends.tinkex_dev.http.gate import TRANSPORT
from backends.tinkex_dev.options import ServerOptions
from backends.tinkex_dev.service.service import Service
from nsai_work.asgi_server import serving_app


class _Protocol(HttpToolsProtocol):
    """Puts the connection's transport into the scope, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        inner = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await inner(scope, receive, send)

        self.app = app


@asynccontextmanager
async def serving(options: ServerOptions, clock: ServerClock, listening: socket.socket) -> AsyncIterator[Service]:
    """Serve on a bound socket while the context is open.

    Linear algebra is limited to one thread, permanently for this process: the split of a sum over threads changes
    its last bits, and equal seeds must give equal numbers on any number of cores.
    """
    threadpool_limits(1, user_api="blas")
    service = Service(options, clock)
    app = application(service)
    try:
        async with serving_app(app, listening, http=_Protocol, on_tick=service.end_stale_sessions):
            yield service
    finally:
        service.close()
