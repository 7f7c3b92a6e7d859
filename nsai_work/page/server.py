"""The server of the page, on a socket of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from crucible.errors import InvalidRequest
from crucible.http.redaction import remember_secret
from crucible.runtime.monotonic import new_event_loop
from nsai_work.asgi_server import bound_socket, serving_app, why_unbound
from nsai_work.page.application import PageApp
from nsai_work.page.session import MIN_TOKEN
from nsai_work.settings import Settings

STOP_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class PageOptions:
    """The address of the page; port 0 is any free one. ``names`` are host names under which it may be reached,
    beside localhost and IP addresses. ``option`` is the option that an error of the address names."""

    host: str = "127.0.0.1"
    port: int = 0
    names: tuple[str, ...] = ()
    option: str = "--listen"


@asynccontextmanager
async def page_server(settings: Settings, options: PageOptions) -> AsyncIterator[str]:
    """Serve the page while the context is open. Yields its URL.

    Raises:
        InvalidRequest: the address cannot be listened on, or the token is too short.
    """
    token = settings.page_token or None
    remember_secret(token)
    if token is not None and len(token) < MIN_TOKEN:
        raise InvalidRequest(f"NSAI_WORK_PAGE_TOKEN: give at least {MIN_TOKEN} characters (the value is not shown)")
    try:
        listening = bound_socket(options.host, options.port)
    except (OSError, UnicodeError) as error:
        where = f"{options.host}:{options.port}"
        raise InvalidRequest.of(options.option, where, why_unbound(error)) from error
    host, port = listening.getsockname()[:2]
    page = PageApp(settings, token=token, names=(*options.names, options.host))
    try:
        async with serving_app(page.app, listening):
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
            await page.end_streams()
    finally:
        page.close()


@contextmanager
def page_thread(settings: Settings, options: PageOptions) -> Iterator[str]:
    """Serve the page from a thread with an event loop of its own. Yields its URL. Raises as ``page_server``."""
    started: Future[str] = Future()
    loop, stop = new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with page_server(settings, options) as url:
            started.set_result(url)
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="nsai-work page", daemon=True)
    thread.start()
    try:
        yield started.result()
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_WAIT_S)
