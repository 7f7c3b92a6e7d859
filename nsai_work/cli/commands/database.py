"""``nsai-work db``: the store's schema, and what it keeps."""

import re
from datetime import UTC, timedelta
from typing import Annotated, Final

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.output import write_json
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import read_settings, the_store

_UNITS: Final = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST: Final = timedelta(days=36_500)

database_app = typer.Typer(
    help="The store's schema, and what it keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@database_app.callback()
def _database() -> None:
    """The store's schema, and what it keeps."""


@database_app.command("upgrade")
def upgrade(
    url: Annotated[str | None, typer.Option(help="Instead of NSAI_WORK_DATABASE_URL.")] = None,
) -> None:
    """Bring the schema up to date; nothing happens when it is."""
    from nsai_work.settings import redacted
    from nsai_work.store import migrate_store

    settings = read_settings()
    target = url or settings.database_url
    if target == settings.database_url and target.startswith("sqlite"):
        settings.make_home()
    migrate_store(target)
    typer.echo(f"up to date: {redacted(target)}")


@database_app.command("prune")
def prune(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Since a job ended: 30d, 12h, 90min or 8w.")],
    forget_checkpoints: Annotated[
        bool,
        typer.Option(help="Also jobs whose checkpoints lie at the service, which nobody then knows the jobs of."),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say how many there are.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Forget jobs that ended long ago, with their events, steps and attempts."""
    from nsai_work.clock import SystemClock

    before = SystemClock().now().astimezone(UTC) - age_of(older_than)
    store = the_store()
    old, with_checkpoints = store.count_old(before)
    forgotten = 0
    # a batch is a transaction: others get at the store between two of them
    while not dry_run and (batch := store.prune(before, forget_checkpoints=forget_checkpoints)):
        forgotten += batch
    if json_output:
        write_json({"older": old, "with_checkpoints": with_checkpoints, "forgotten": forgotten})
        return
    typer.echo(f"{old} jobs ended before {before:%Y-%m-%d %H:%M} UTC, {with_checkpoints} of them with checkpoints")
    if not dry_run:
        typer.echo(f"{forgotten} forgotten")


def age_of(text: str) -> timedelta:
    """The length of time that a text such as ``30d`` means.

    Raises:
        InvalidRequest: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,8})(min|h|d|w)", text.strip(), re.ASCII)
    if match is not None:
        age = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if timedelta(0) < age <= _LONGEST:
            return age
    raise InvalidRequest.of("--older-than", text, "a number and min, h, d or w, such as 30d")
