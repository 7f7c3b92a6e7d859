"""``nsai-work db``: the schema of the store."""

from typing import Annotated

import typer

from nsai_work.cli.opening import read_settings

database_app = typer.Typer(
    help="The store's schema.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@database_app.callback()
def _database() -> None:
    """The store's schema."""


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
