"""``nsai-work watch``: follows a job live, whichever process runs it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from nsai_work.cli.exit_codes import status_exit_code
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.error_report import describe_failure
from nsai_work.cli.output.job_view import view_for
from nsai_work.cli.output.run_outcome import try_command
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.parameters import JobId, Timeout
from nsai_work.cli.store_access import existing_store
from nsai_work.clock import Clock, SystemClock
from nsai_work.errors import WaitTimedOut
from nsai_work.lifecycle import JobStatus
from nsai_work.presentation.json_forms import event_json
from nsai_work.presentation.progress import requested_steps

if TYPE_CHECKING:
    from nsai_work.cli.output.job_view import JobView
    from nsai_work.client.follow import JobUpdate
    from nsai_work.store import EventRow, Store

MAX_PAUSE_S: Final = 0.1
SHOWN_AFTER_S: Final = 1.0
"""The duration from which the wait of a job that does not run is shown: most jobs start sooner."""
TAIL: Final = 10
"""The number of past events of a running job that are shown."""


def watch(
    job_id: JobId,
    timeout: Timeout = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Follow a job until it ends: from its first event, or if it runs, from the last few on.

    With --json, always from its first event.

    The exit code is 0 if the job succeeded, else 1.
    """
    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    if json_output:
        status = _follow(store, job.id, timeout, lambda event: write_json(event_json(event), indent=None), _nothing)
    else:
        with view_for(Console(), total=requested_steps(job)) as view:
            after = show_past(store, job.id, view) if job.status is JobStatus.RUNNING else 0
            status = _follow(store, job.id, timeout, view.show, view.show_wait, after)
    ended = store.get(job.id)
    if ended.error is not None and not json_output:
        write_line(describe_failure(ended.error), err=True)
    elif not json_output and (command := try_command(ended)):
        write_line(f"try it: {command}")
    raise typer.Exit(status_exit_code(status))


def _follow(
    store: "Store",
    job_id: str,
    timeout_s: float | None,
    on_event: Callable[["EventRow"], object],
    on_wait: Callable[[str | None], object],
    after: int = 0,
) -> JobStatus:
    """Call ``on_event`` with each event, and ``on_wait`` with why the job waits; return the status at the end.

    Raises:
        WaitTimedOut: the job has not ended after ``timeout_s``.
    """
    from nsai_work.client.follow import follow_jobs, read_update

    status = JobStatus.PENDING
    wait = CurrentWait(on_wait)

    def read(job_id: str, position: int) -> "JobUpdate":
        update = read_update(store, job_id, position)
        for event in update.events:
            on_event(event)
        wait.observe(update)
        return update

    try:
        for update in follow_jobs(read, [job_id], after=after, timeout_s=timeout_s, max_pause_s=MAX_PAUSE_S):
            status = update.status
    except TimeoutError as error:
        raise WaitTimedOut(str(error), details={"job_id": job_id}) from None
    return status


def _nothing(reason: str | None) -> None:
    """Ignore a wait."""


class CurrentWait:
    """Reports why a job waits, whenever that changes: of a running job at once, since its worker has waited before
    it says so, and of others once they have waited for ``SHOWN_AFTER_S``, also before they were watched. No worker
    need be alive, as for the events of waits."""

    def __init__(self, on_wait: Callable[[str | None], object], clock: Clock | None = None) -> None:
        self._on_wait = on_wait
        self._clock = clock or SystemClock()
        self._since: float | None = None
        self._shown: str | None = None

    def observe(self, update: "JobUpdate") -> None:
        """Receive the reason, as of now."""
        reason = update.wait_reason
        if reason is None:
            self._since = None
        elif self._since is None:
            self._since = self._clock.monotonic()
        shown = reason if self._is_long(update) else None
        if shown != self._shown:
            self._shown = shown
            self._on_wait(shown)

    def _is_long(self, update: "JobUpdate") -> bool:
        if self._since is None:
            return False
        seen_s = self._clock.monotonic() - self._since
        queued_s = 0.0 if update.queued_at is None else (self._clock.now() - update.queued_at).total_seconds()
        return update.status is JobStatus.RUNNING or max(seen_s, queued_s) >= SHOWN_AFTER_S


def show_past(store: "Store", job_id: str, view: "JobView") -> int:
    """Count the events that there are, and show the last ``TAIL``. Returns the number of the last one."""
    from nsai_work.store.queries.job_log import past_events

    past, tail = store.database.read(past_events, job_id, TAIL)
    for event in past:
        view.catch_up(event)
    for event in tail:
        view.show(event)
    return tail[-1].seq if tail else 0
