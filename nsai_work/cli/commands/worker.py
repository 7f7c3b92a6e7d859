"""``nsai-work worker``: runs jobs until it is stopped."""

from typing import Annotated

import typer

from nsai_work.cli.store_access import load_settings
from nsai_work.job import Priority


def worker(
    queue: Annotated[
        list[Priority] | None,
        typer.Option(help="Only jobs of this priority; can be repeated. All priorities if omitted."),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of concurrent jobs; NSAI_WORK_CONCURRENCY (100) if omitted."),
    ] = None,
) -> None:
    """Run jobs until stopped.

    The first Ctrl-C or SIGTERM hands running jobs over and exits; the second exits immediately.
    """
    from nsai_work.worker import run_worker

    settings = load_settings(quiet=False)
    settings.make_home()
    run_worker(settings, queues=tuple(queue or Priority), concurrency=concurrency or settings.concurrency)
