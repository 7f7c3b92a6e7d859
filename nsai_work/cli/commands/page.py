"""``nsai-work page``: serves the page on jobs, curves, the queue and the workers."""

import asyncio
import ipaddress
import signal
from typing import TYPE_CHECKING, Annotated, Final

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import load_settings

if TYPE_CHECKING:
    from nsai_work.page.server import PageOptions
    from nsai_work.settings import Settings

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
    require_page()
    from crucible.runtime.monotonic import new_event_loop

    options = page_options(listen, tuple(name or ()), "--listen")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(load_settings(log_json=json_output), options, json_output))


def require_page() -> None:
    """Raise InvalidRequest unless the packages of the page are installed."""
    from nsai_work.extras import missing_extra

    if missing := missing_extra("page"):
        raise InvalidRequest(missing)


def page_options(address: str, names: tuple[str, ...], option: str) -> "PageOptions":
    """Return where to serve the page. Raises InvalidRequest, which names the option."""
    from nsai_work.page.server import PageOptions
    from nsai_work.worker.probes.probe_server import Address

    parsed = Address.parse(address, option)
    return PageOptions(parsed.host, parsed.port, tuple(map(_host_name, names)), option)


def _host_name(name: str) -> str:
    from urllib.parse import urlsplit

    # a name that no request can have would be refused by the page for good, and nothing would say why
    try:
        is_host = bool(name) and urlsplit(f"//{name}").hostname == name.lower()
    except ValueError:
        is_host = False
    if not is_host:
        raise InvalidRequest.of("--name", name, "give a host name alone, as jobs.example.org")
    return name


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(settings: "Settings", options: "PageOptions", json_output: bool) -> None:
    from nsai_work.page.server import page_server

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with page_server(settings, options) as url:
        if json_output:
            write_json({"url": url, "may_change": bool(settings.page_token)}, indent=None)
        else:
            changes = "people who sign in can change jobs" if settings.page_token else "read-only"
            write_line(f"{url} ({changes}); Ctrl-C ends it")
        if not is_loopback(options.host):
            write_line(f"everyone who reaches {options.host} reads all jobs, without encryption", err=True)
        await stop.wait()
