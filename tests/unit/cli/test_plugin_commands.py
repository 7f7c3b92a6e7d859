"""Commands that plug-ins bring."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from crucible.errors import PluginError
from nsai_work.cli import plugin_commands
from nsai_work.cli.app import app

HEAVY = ("celery", "kombu", "sqlalchemy", "alembic", "numpy", "httpx", "starlette", "uvicorn", "stevedore")


def install(monkeypatch: pytest.MonkeyPatch, **targets: object) -> None:
    """Register commands as entry points of a module that holds them."""
    module = ModuleType("a_plugin")
    for name, target in targets.items():
        setattr(module, name, target)
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    points = {name: EntryPoint(name, f"a_plugin:{name}", plugin_commands.GROUP) for name in targets}
    points["missing"] = EntryPoint("missing", "a_plugin_that_is_not_there:x", plugin_commands.GROUP)
    monkeypatch.setattr(plugin_commands, "plugin_commands", lambda: points)


def test_a_function_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain function with typer parameters is all that a plug-in needs."""

    def greet(name: str = "world") -> None:
        typer.echo(f"hello {name}")

    install(monkeypatch, greet=greet)

    assert CliRunner().invoke(app, ["greet", "--name", "you"]).output == "hello you\n"


def test_a_typer_app_is_a_group_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in may bring several commands under one name."""
    tools = typer.Typer()
    tools.command("one")(lambda: typer.echo("1"))
    tools.command("two")(lambda: typer.echo("2"))
    install(monkeypatch, tools=tools)

    assert CliRunner().invoke(app, ["tools", "two"]).output == "2\n"


def test_a_plugin_cannot_replace_a_command_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """``submit`` means submit, whatever is installed."""
    install(monkeypatch, submit=lambda: typer.echo("hijacked"))

    assert "hijacked" not in CliRunner().invoke(app, ["submit", "--help"]).output


def test_a_broken_plugin_is_a_line_in_the_help_and_breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are listed and run; the broken one says why it does not."""
    install(monkeypatch, fine=lambda: typer.echo("fine"))
    runner = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})

    helped = runner.invoke(app, ["--help"])
    broken = runner.invoke(app, ["missing", "--whatever", "x"])

    assert helped.exit_code == 0
    assert "failed to load" in helped.output
    assert runner.invoke(app, ["fine"]).output == "fine\n"
    assert isinstance(broken.exception, PluginError)
    assert "a_plugin_that_is_not_there" in str(broken.exception)


def test_help_is_light() -> None:
    """``nsai-work --help`` loads none of the heavy libraries, plug-in commands included."""
    code = (
        "import sys, json\n"
        "from nsai_work.cli import main\n"
        "sys.argv = ['nsai-work', '--help']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        f"sys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stderr) == []
