"""A uvicorn server that runs in an open event loop, installs no signal handlers and stops immediately."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_TICK_S = 1.0


@asynccontextmanager
async def serving_app(
    app: "ASGIApp",
    listening: socket.socket,
    *,
    http: Any = "httptools",
    on_tick: Callable[[], None] | None = None,
) -> AsyncIterator[None]:
    """Serve an application on a bound socket while the context is open.

    ``http`` is uvicorn's class of the protocol; ``on_tick`` is called about once a second. At the end of the
    context, open calls are cancelled and connections aborted.
    """
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        backlog=1024,
    )
    # not its ``serve``, which would handle signals: the caller decides when it stops
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    ticks = asyncio.create_task(_tick(server, on_tick))
    try:
        yield
    finally:
        ticks.cancel()
        await _stop(server)


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 is any free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with an explicit IPPROTO_TCP, asyncio sets TCP_NODELAY, so small answers are not delayed
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def why_unbound(error: OSError | UnicodeError) -> str:
    """The reason why an address cannot be listened on, with what to do."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot listen there: {reason}; give an address of this machine, and a free port or 0 for any"


async def _stop(server: uvicorn.Server) -> None:
    """Stop immediately: uvicorn's own shutdown waits for calls that may block for minutes."""
    loop = asyncio.get_running_loop()
    # asyncio would lose a connection that it has accepted, but not yet told its closed server: accepting ends first
    for listener in server.servers:
        for listening in listener.sockets:
            loop.remove_reader(listening.fileno())
    await _run_ready_callbacks()  # connections being accepted are then listed
    for listener in server.servers:
        listener.close()
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


async def _tick(server: uvicorn.Server, on_tick: Callable[[], None] | None) -> None:
    """Run uvicorn's periodic work, and the caller's."""
    count = 0
    while True:
        await server.on_tick(count)
        if on_tick is not None:
            on_tick()
        count += 1
        await asyncio.sleep(_TICK_S)
