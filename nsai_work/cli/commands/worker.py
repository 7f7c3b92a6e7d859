"""``nsai-work worker``: runs jobs until it is stopped."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from nsai_work.cli.commands.page import page_options, require_page
from nsai_work.cli.output.stdout import write_json
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import load_settings
from nsai_work.job import Priority

if TYPE_CHECKING:
    from nsai_work.settings import Settings


def worker(
    queue: Annotated[
        list[Priority] | None,
        typer.Option(help="Only jobs of this priority; can be repeated. All priorities if omitted."),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="Maximum number of concurrent jobs; NSAI_WORK_CONCURRENCY (100) if omitted."
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve /livez, /readyz and /metrics there, as 127.0.0.1:9200; a port alone is on loopback.",
        ),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Also serve the page there, as nsai-work page does with --listen."),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Run jobs until stopped.

    The first Ctrl-C or SIGTERM hands running jobs over and exits; the second exits immediately. With --json, one
    line on stdout says that the worker claims jobs, and the events of the log on stderr are JSON.
    """
    from nsai_work.worker import run_worker
    from nsai_work.worker.probes.probe_server import Address

    settings = load_settings(quiet=False, log_json=json_output)
    address = None if http is None else Address.parse(http)
    settings.make_home()
    queues, limit = tuple(queue or Priority), concurrency or settings.concurrency
    with _page(settings, page) as page_url:
        on_ready = partial(_write_ready, queues, limit, page_url) if json_output else None
        run_worker(settings, queues=queues, concurrency=limit, on_ready=on_ready, http=address)


@contextmanager
def _page(settings: "Settings", address: str | None) -> Iterator[str | None]:
    """Serve the page from a thread, if there is an address. Yields its URL."""
    if address is None:
        yield None
        return
    require_page()
    from nsai_work.page.server import page_thread
    from nsai_work.telemetry.logs import get_logger

    with page_thread(settings, page_options(address, (), "--page")) as url:
        get_logger(__name__).info("worker.page", url=url)
        yield url


def _write_ready(
    queues: Sequence[Priority], concurrency: int, page_url: str | None, worker_id: str, url: str | None
) -> None:
    ready: dict[str, JsonValue] = {
        "worker_id": worker_id,
        "pid": os.getpid(),
        "queues": [str(name) for name in queues],
        "concurrency": concurrency,
    }
    if url is not None:
        ready["http"] = url
    if page_url is not None:
        ready["page"] = page_url
    write_json(ready, indent=None)
