"""Commands that plug-ins bring: entry points in the group ``nsai_work.commands``.

The entry point is a function with typer parameters, or a ``typer.Typer``. It is imported when its command runs or
its help is shown; one that cannot be imported is listed with its error, and breaks nothing else.
"""

from importlib.metadata import EntryPoint, entry_points

import typer
from typer.core import TyperGroup

from crucible.errors import PluginError

GROUP = "nsai_work.commands"
PANEL = "Plug-ins"


class CommandGroup(TyperGroup):
    """The built-in commands, then those of plug-ins. A plug-in cannot replace a built-in one."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """All names; nothing is imported for it."""
        own = super().list_commands(ctx)
        return own + sorted(set(plugin_commands()) - set(own))

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override] # noqa: ANN201
        """A command by name, imported now if it is a plug-in's; None when there is none."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entry = plugin_commands().get(cmd_name)
        return None if entry is None else typer.main.get_command(_load(entry))


def plugin_commands() -> dict[str, EntryPoint]:
    """The installed plug-in commands by name, not imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> typer.Typer:
    try:
        found = entry.load()
        if isinstance(found, typer.Typer):
            found.info.name = entry.name
            return found
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(entry.name, rich_help_panel=PANEL)(found)
        typer.main.get_command(single)
    except Exception as error:
        return _broken(entry, error)
    return single


def _broken(entry: EntryPoint, error: Exception) -> typer.Typer:
    package = entry.dist.name if entry.dist else "an unknown package"
    reason = f"{type(error).__name__}: {error}"
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @single.command(
        entry.name,
        help=f"(cannot be loaded: {reason})",
        rich_help_panel=PANEL,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def broken() -> None:
        raise PluginError(
            f"the command {entry.name} of package {package} cannot be loaded: {reason}",
            details={"target": entry.value},
        ) from error

    return single
