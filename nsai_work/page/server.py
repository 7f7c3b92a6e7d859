"""The server of the page: uvicorn on a socket, in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import uvicorn

from crucible.errors import InvalidRequest
from nsai_work.page.application import application
from nsai_work.page.session import MIN_TOKEN
from nsai_work.settings import Settings

BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 500
STOP_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class PageOptions:
    """Where the page is served, and for whom. ``names`` are host names under which it may be reached."""

    host: str = "127.0.0.1"
    port: int = 0
    names: tuple[str, ...] = ()


class _PageServer(uvicorn.Server):
    """uvicorn without signal handlers: the caller decides when it stops."""

    def install_signal_handlers(self) -> None:
        """Install none."""


@contextmanager
def page_server(settings: Settings, options: PageOptions) -> Iterator[str]:
    """Serve the page while the context is open. Yields its URL.

    Raises:
        InvalidRequest: the address cannot be listened on, or the token is too short.
    """
    token = settings.page_token or None
    if token is not None and len(token) < MIN_TOKEN:
        raise InvalidRequest(f"NSAI_WORK_PAGE_TOKEN: give at least {MIN_TOKEN} characters (the value is not shown)")
    listening = _listen(options.host, options.port)
    app = application(settings, token=token, names=(*options.names, options.host))
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = _PageServer(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listening])), name="nsai-work page", daemon=True
    )
    thread.start()
    try:
        yield _url(listening)
    finally:
        app.state.streams.end()
        server.should_exit = True
        thread.join(STOP_WAIT_S)
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listening.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidRequest.of("--listen", f"{host}:{port}", f"cannot listen there: {why}") from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
