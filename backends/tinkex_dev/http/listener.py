"""The uvicorn server around the application: immediate shutdown, and access to connections for faults."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import Receive, Scope, Send
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.http.app import application
from backends.tinkex_dev.http.gate import TRANSPORT
from backends.tinkex_dev.options import ServerOptions
from backends.tinkex_dev.service.service import Service

_TICK_S = 1.0


class _Protocol(HttpToolsProtocol):
    """Puts the connection's transport into the scope, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        inner = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await inner(scope, receive, send)

        self.app = app


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the caller decides when it stops."""

    def install_signal_handlers(self) -> None:
        """Install none."""


@asynccontextmanager
async def serving(options: ServerOptions, clock: ServerClock, listening: socket.socket) -> AsyncIterator[Service]:
    """Serve on a bound socket while the context is open.

    Linear algebra is limited to one thread, permanently for this process: the split of a sum over threads changes
    its last bits, and equal seeds must give equal numbers on any number of cores.
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
    """Stop immediately: uvicorn's own shutdown waits for calls that may block for minutes."""
    for listener in server.servers:
        listener.close()
    await _run_ready_callbacks()  # connections being accepted are then listed
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    calls = list(server.server_state.tasks)
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await _run_ready_callbacks()  # aborted connections are then closed


async def _run_ready_callbacks() -> None:
    """Yield to the event loop a few times."""
    for _ in range(3):
        await asyncio.sleep(0)


async def _tick(server: uvicorn.Server, service: Service) -> None:
    """Run uvicorn's periodic work, and end stale sessions."""
    count = 0
    while True:
        await server.on_tick(count)
        service.end_stale_sessions()
        count += 1
        await asyncio.sleep(_TICK_S)
