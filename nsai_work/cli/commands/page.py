"""``nsai-work page``: serves the page on jobs, curves, the queue and the workers."""

import signal
import threading
from types import FrameType
from typing import Annotated, Final

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.output import write_json, write_line
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import load_settings

DEFAULT_ADDRESS: Final = "127.0.0.1:8020"


def page(
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Serve there; a port alone is on loopback, 0 is any free one."),
    ] = DEFAULT_ADDRESS,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host name of the page, beside localhost and addresses; can be repeated."),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Serve a page that shows jobs, their loss curves, the queue and the workers, live.

    It changes nothing, unless NSAI_WORK_PAGE_TOKEN is set: people who sign in with it can cancel and retry jobs and
    promote checkpoints. Every page has a JSON twin.
    """
    from nsai_work.extras import missing_extra

    if missing := missing_extra("page"):
        raise InvalidRequest(missing)
    from nsai_work.page.server import PageOptions, page_server
    from nsai_work.worker.probes.probe_server import Address

    address = Address.parse(listen, "--listen")
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    settings = load_settings(log_json=json_output)
    with page_server(settings, PageOptions(address.host, address.port, tuple(name or ()))) as url:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        if json_output:
            write_json({"url": url, "may_change": bool(settings.page_token)}, indent=None)
        else:
            changes = "people who sign in can change jobs" if settings.page_token else "read-only"
            write_line(f"{url} ({changes}); Ctrl-C ends it")
        ended.wait()
