"""The application: its command tree, and the translation of errors into messages and exit codes."""

import io
import json
import os
import sys
from functools import cache
from typing import Annotated, Any

import typer

from crucible.errors import CrucibleError, InvalidRequest
from crucible.rendering.plain_text import plain_text
from nsai_work.cli.commands.backends import backends
from nsai_work.cli.commands.complete import complete
from nsai_work.cli.commands.curves import compare, plot
from nsai_work.cli.commands.data import data
from nsai_work.cli.commands.database import database_app
from nsai_work.cli.commands.doctor import doctor
from nsai_work.cli.commands.extend import extend
from nsai_work.cli.commands.job_actions import cancel, promote, retry
from nsai_work.cli.commands.jobs import checkpoints, evaluations, list_jobs, show, steps
from nsai_work.cli.commands.limits import limits_app
from nsai_work.cli.commands.model_files import download, export
from nsai_work.cli.commands.page import page
from nsai_work.cli.commands.queue_state import queue, workers
from nsai_work.cli.commands.results import results
from nsai_work.cli.commands.rollouts import rollouts
from nsai_work.cli.commands.run import run
from nsai_work.cli.commands.serve import serve
from nsai_work.cli.commands.submit import submit
from nsai_work.cli.commands.watch import watch
from nsai_work.cli.commands.worker import worker
from nsai_work.cli.exit_codes import ExitCode, error_exit_code
from nsai_work.cli.output.error_report import report_error
from nsai_work.cli.plugin_commands import CommandGroup
from nsai_work.cli.store_access import close_all

DEBUG_VARIABLE = "NSAI_WORK_DEBUG"

USAGE_ERROR: type[Any] = typer.BadParameter.__base__ or typer.BadParameter
"""The error of wrong arguments; typer exports only a kind of it."""

EPILOG = "Exit codes: 0 done, 1 failed, 2 bad input, 3 not found, 124 timed out while waiting, 130 interrupted."

app = typer.Typer(
    name="nsai-work",
    cls=CommandGroup,
    help="Durable jobs for machine-learning work: training runs that survive whatever kills them.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        from nsai_work.version import __version__

        typer.echo(f"nsai-work {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version


app.command("run", rich_help_panel="Jobs")(run)
app.command("submit", rich_help_panel="Jobs")(submit)
app.command("list", rich_help_panel="Jobs")(list_jobs)
app.command("show", rich_help_panel="Jobs")(show)
app.command("steps", rich_help_panel="Jobs")(steps)
app.command("evaluations", rich_help_panel="Jobs")(evaluations)
app.command("checkpoints", rich_help_panel="Jobs")(checkpoints)
app.command("plot", rich_help_panel="Jobs")(plot)
app.command("compare", rich_help_panel="Jobs")(compare)
app.command("results", rich_help_panel="Jobs")(results)
app.command("rollouts", rich_help_panel="Jobs")(rollouts)
app.command("watch", rich_help_panel="Jobs")(watch)
app.command("cancel", rich_help_panel="Jobs")(cancel)
app.command("retry", rich_help_panel="Jobs")(retry)
app.command("extend", rich_help_panel="Jobs")(extend)
app.command("promote", rich_help_panel="Jobs")(promote)
app.command("download", rich_help_panel="Jobs")(download)
app.command("export", rich_help_panel="Jobs")(export)
app.command("data", rich_help_panel="Jobs")(data)
app.command("worker", rich_help_panel="Service")(worker)
app.command("workers", rich_help_panel="Service")(workers)
app.command("queue", rich_help_panel="Service")(queue)
app.command("page", rich_help_panel="Service")(page)
app.command("doctor", rich_help_panel="Service")(doctor)
app.add_typer(limits_app, name="limits", rich_help_panel="Service")
app.add_typer(database_app, name="db", rich_help_panel="Service")
app.command("backends", rich_help_panel="Backends")(backends)
app.command("complete", rich_help_panel="Backends")(complete)
app.command("serve", rich_help_panel="Backends")(serve)


@cache
def command_tree() -> Any:
    """Return the command of this process with all of its subcommands, which depends on nothing but the imports."""
    return typer.main.get_command(app)


def run_app() -> None:
    """Run the command of this process and exit. An error is reported as a message; NSAI_WORK_DEBUG shows its
    traceback instead."""
    _escape_unencodable_output()
    try:
        _require_utf8(sys.argv[1:])
        _warn_of_unknown_variables()
        sys.exit(command_tree()(prog_name="nsai-work", standalone_mode=False) or ExitCode.DONE)
    except USAGE_ERROR as error:
        _report_usage(error)
        sys.exit(ExitCode.BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _exit_after_broken_pipe()
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        known = error if isinstance(error, CrucibleError) else _unexpected(error)
        report_error(known, as_json=_stderr_is_json())
        sys.exit(error_exit_code(known))
    finally:
        close_all()


def _report_usage(error: Any) -> None:
    """Report wrong arguments: in a box, or as the object that scripts get for every error."""
    error.message = error.message.replace("Value error, ", "")
    if not _stderr_is_json():
        from typer.rich_utils import rich_format_error

        rich_format_error(error)
        return
    command = error.ctx.command_path if error.ctx else "nsai-work"
    wrong = InvalidRequest(error.format_message(), details={"command": command})
    report_error(wrong, as_json=True, advice=f"{command} --help has the arguments")


def _warn_of_unknown_variables() -> None:
    if any(name.upper().startswith("NSAI_WORK_") for name in os.environ):
        from nsai_work.settings import unknown_variables

        for name, known in unknown_variables().items():
            text = f"nothing reads {name}; {known}"
            line = json.dumps({"warning": text}) if _stderr_is_json() else plain_text(f"warning: {text}")
            sys.stderr.write(line + "\n")


def _stderr_is_json() -> bool:
    """Check whether a script reads stderr: with --json, and where the log is JSON."""
    if "--json" in sys.argv[1:]:
        return True
    from nsai_work.settings import logs_json

    return logs_json()


def _escape_unencodable_output() -> None:
    # characters that the terminal's encoding lacks, and lone surrogates in answers of services
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_utf8(arguments: list[str]) -> None:
    for argument in arguments:
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            raise InvalidRequest.of("argument", argument, "arguments must be UTF-8 text")


def _unexpected(error: Exception) -> CrucibleError:
    return CrucibleError(
        f"internal error (a bug in nsai-work or in a plug-in): {type(error).__name__}: {error}\n"
        f"set {DEBUG_VARIABLE}=1 to see the traceback"
    )


def _exit_after_broken_pipe() -> None:
    # the reader has closed the pipe ("| head"): redirect, or Python's flush at exit would report it again
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(ExitCode.FAILED)
