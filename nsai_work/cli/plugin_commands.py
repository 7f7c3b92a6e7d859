"""Plug-in commands: entry points in the group ``nsai_work.commands``.

An entry point is a function with typer parameters, or a ``typer.Typer``. It is imported when its command runs or
its help is shown. If the import fails, the command is listed with the error, and other commands are not affected.
"""

from importlib.metadata import EntryPoint, entry_points

import typer
from typer.core import TyperGroup

from crucible.errors import PluginError
from crucible.runtime.plugin_code import plugin_code

GROUP = "nsai_work.commands"
PANEL = "Plug-ins"


class CommandGroup(TyperGroup):
    """The built-in commands, followed by those of plug-ins. A plug-in cannot replace a built-in command."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all commands, without importing them."""
        built_in = super().list_commands(ctx)
        return built_in + sorted(set(plugin_commands()) - set(built_in))

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override] # noqa: ANN201
        """Return a command, or None if there is none of this name. Imports a plug-in command."""
        built_in = super().get_command(ctx, cmd_name)
        if built_in is not None:
            return built_in
        entry = plugin_commands().get(cmd_name)
        return None if entry is None else typer.main.get_command(_load(entry))


def plugin_commands() -> dict[str, EntryPoint]:
    """Return the entry points of the installed plug-in commands, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> typer.Typer:
    try:
        with plugin_code():
            target = entry.load()
        if isinstance(target, typer.Typer):
            target.info.name = entry.name
            return target
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(entry.name, rich_help_panel=PANEL)(target)
        typer.main.get_command(app)  # checks the parameters
    except Exception as error:
        return _broken(entry, error)
    return app


def _broken(entry: EntryPoint, error: Exception) -> typer.Typer:
    package = entry.dist.name if entry.dist else "an unknown package"
    reason = f"{type(error).__name__}: {error}"
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(
        entry.name,
        help=f"(failed to load: {reason})",
        rich_help_panel=PANEL,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def broken() -> None:
        raise PluginError(
            f"the command {entry.name} of package {package} failed to load: {reason}",
            details={"target": entry.value},
        ) from error

    return app
