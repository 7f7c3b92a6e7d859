"""uvicorn around the application, with the few things it does not do by itself."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import Receive, Scope, Send
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backends.tinkex_dev.app import application
from backends.tinkex_dev.clock import Clock
from backends.tinkex_dev.gate import TRANSPORT
from backends.tinkex_dev.options import Options
from backends.tinkex_dev.service import Service

_SWEEP_S = 1.0


class _Protocol(HttpToolsProtocol):
    """Leaves the connection in the scope, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        inner = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await inner(scope, receive, send)

        self.app = app


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: whoever runs it decides when it stops."""

    def install_signal_handlers(self) -> None:
        """None."""


@asynccontextmanager
async def serving(options: Options, clock: Clock, listening: socket.socket) -> AsyncIterator[Service]:
    """Serve on a bound socket as long as the context is open.

    Linear algebra is held to one thread, in this process for good: how a sum is split over threads changes its
    last bits, and the same seed must give the same numbers on any number of cores.
    """
    threadpool_limits(1, user_api="blas")
    service = Service(options, clock)
    config = uvicorn.Config(
        application(service),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        backlog=1024,
    )
    server = _Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    ticks = asyncio.create_task(_tick(server, service))
    try:
        yield service
    finally:
        ticks.cancel()
        await _stop(server)
        service.close()


async def _stop(server: uvicorn.Server) -> None:
    """Stop at once: uvicorn's own way waits for calls that may be held for minutes."""
    for listener in server.servers:
        listener.close()
    await _few_turns()  # connections that are just being accepted become known
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    answering = list(server.server_state.tasks)
    for task in answering:
        task.cancel()
    await asyncio.gather(*answering, return_exceptions=True)
    await _few_turns()  # and those that were cut are really closed


async def _few_turns() -> None:
    """Let the event loop run what is ready."""
    for _ in range(3):
        await asyncio.sleep(0)


async def _tick(server: uvicorn.Server, service: Service) -> None:
    """uvicorn's own bookkeeping, and ours."""
    count = 0
    while True:
        await server.on_tick(count)
        service.end_stale_sessions()
        count += 1
        await asyncio.sleep(_SWEEP_S)
