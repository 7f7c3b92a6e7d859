"""``nsai-work db``: upgrades the schema of the store and prunes old jobs."""

import re
from collections import Counter
from datetime import UTC, timedelta
from typing import Annotated, Final

import typer
from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import existing_store, load_settings
from nsai_work.presentation.quantities import count_text

_UNITS: Final = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
MAX_AGE: Final = timedelta(days=36_500)

database_app = typer.Typer(
    help="Upgrade the store's schema, and delete old jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@database_app.command("upgrade")
def upgrade(
    url: Annotated[str | None, typer.Option(help="Database to upgrade; NSAI_WORK_DATABASE_URL if omitted.")] = None,
    json_output: JsonFlag = False,
) -> None:
    """Upgrade the schema to the newest version. Does nothing if it is up to date."""
    from nsai_work.settings import redacted
    from nsai_work.store import migrate_store
    from nsai_work.store.engine.migrate import HEAD

    settings = load_settings()
    target = url or settings.database_url
    if target == settings.database_url and target.startswith("sqlite"):
        settings.make_home()
    migrate_store(target)
    if json_output:
        write_json({"database": redacted(target), "version": HEAD})
        return
    write_line(f"up to date: {redacted(target)}")


@database_app.command("prune")
def prune(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Minimum time since a job ended: 30d, 12h, 90min or 8w.")
    ],
    forget_checkpoints: Annotated[
        bool,
        typer.Option(
            "--forget-checkpoints",
            help="Also delete jobs with checkpoints at the service. The checkpoints stay there, without a record"
            " of their job.",
        ),
    ] = False,
    delete_checkpoints: Annotated[
        bool,
        typer.Option(
            "--delete-checkpoints",
            help="Also delete jobs with checkpoints, after deleting these at the service. Promoted checkpoints,"
            " those that an unfinished job names, and their jobs are kept.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count jobs and checkpoints.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Delete jobs that ended long ago, with their events, steps, attempts and files."""
    from nsai_work.client.checkpoints.checkpoint_use import find_use
    from nsai_work.client.checkpoints.prune import delete_old_checkpoints, delete_unused_blobs
    from nsai_work.client.local_files import LocalFiles
    from nsai_work.clock import SystemClock

    if forget_checkpoints and delete_checkpoints:
        raise InvalidRequest.of("--forget-checkpoints", "given with --delete-checkpoints", "give one of them")
    before = SystemClock().now().astimezone(UTC) - parse_age(older_than)
    settings = load_settings()
    store = existing_store(settings)
    old, with_checkpoints = store.count_old(before)
    checkpoints = store.old_checkpoints(before) if delete_checkpoints else []
    use = find_use(LocalFiles(store, settings), {path for checkpoint in checkpoints for path in checkpoint.paths})
    at_backends = Counter(
        checkpoint.backend for checkpoint in checkpoints if use.jobs.keys().isdisjoint(checkpoint.paths)
    )
    deleted_checkpoints = 0
    if delete_checkpoints and not dry_run:
        timeout_s, keep = settings.submit_timeout_s, use.jobs.keys()
        deleted_checkpoints = delete_old_checkpoints(store, before, keep=keep, timeout_s=timeout_s)
    deleted = 0
    # each batch is a transaction of its own, so that other writers get their turn
    while not dry_run and (batch := store.prune(before, forget_checkpoints=forget_checkpoints)):
        deleted += batch
    files = store.count_unused_blobs() if dry_run else delete_unused_blobs(store, settings)
    if json_output:
        counts: dict[str, JsonValue] = {"older": old, "with_checkpoints": with_checkpoints, "forgotten": deleted}
        counts["files"] = files
        if delete_checkpoints:
            counts |= {"checkpoints": {**at_backends}, "deleted_checkpoints": deleted_checkpoints}
            counts["in_use"] = [{"path": path, "job": job_id} for path, job_id in use.jobs.items()]
            counts["unread"] = [*use.unread]
        write_json(counts)
        return
    write_line(
        f"{count_text(old, 'job')} ended before {before:%Y-%m-%d %H:%M} UTC, "
        f"{with_checkpoints} of them with checkpoints"
    )
    for path, job_id in use.jobs.items():
        write_line(f"{path} is kept: job {job_id}, which has not ended, names it")
    for job_id in use.unread:
        write_line(f"warning: the prompts of job {job_id} cannot be read here; its models were not kept", err=True)
    for backend, count in at_backends.items():
        write_line(f"{count_text(count, 'checkpoint')} at {backend} {'would be' if dry_run else 'were'} deleted")
    if not dry_run:
        write_line(f"{count_text(deleted, 'job')} deleted")
    if files:
        write_line(f"{count_text(files, 'file')} that no job names {'would be' if dry_run else 'were'} deleted")


def parse_age(text: str) -> timedelta:
    """Parse an age such as ``30d``.

    Raises:
        InvalidRequest: it is not a positive number with a unit, or is more than a century.
    """
    match = re.fullmatch(r"([0-9]{1,8})(min|h|d|w)", text.strip(), re.ASCII)
    if match is not None:
        age = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if timedelta(0) < age <= MAX_AGE:
            return age
    raise InvalidRequest.of("--older-than", text, "give a number with a unit (min, h, d or w), such as 30d")
