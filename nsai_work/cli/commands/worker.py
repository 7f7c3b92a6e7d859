"""``nsai-work worker``: a process that works jobs."""

from typing import Annotated

import typer

from nsai_work.cli.store_access import read_settings
from nsai_work.job import Priority


def worker(
    queue: Annotated[
        list[Priority] | None, typer.Option(help="Only jobs of this priority; may be repeated. All when left out.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Jobs at once (NSAI_WORK_CONCURRENCY; 100 when not set).")
    ] = None,
) -> None:
    """Work jobs until told to stop. Ctrl-C or SIGTERM once: hand running jobs over and leave; twice: at once."""
    from nsai_work.worker import run_worker

    settings = read_settings(quiet=False)
    settings.make_home()
    run_worker(settings, queues=tuple(queue or Priority), concurrency=concurrency or settings.concurrency)
