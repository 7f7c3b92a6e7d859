"""The command tree of ``nsai-work``, and the one place where its errors become messages and exit codes."""

import io
import os
import sys
from typing import Annotated

import typer

from crucible.errors import CrucibleError, InvalidRequest
from nsai_work.cli.commands.backends import backends
from nsai_work.cli.commands.complete import complete
from nsai_work.cli.commands.database import database_app
from nsai_work.cli.commands.doctor import doctor
from nsai_work.cli.commands.job_actions import cancel, promote, retry
from nsai_work.cli.commands.jobs import checkpoints, list_jobs, show, steps
from nsai_work.cli.commands.limits import limits_app
from nsai_work.cli.commands.run import run
from nsai_work.cli.commands.submit import submit
from nsai_work.cli.commands.watch import watch
from nsai_work.cli.commands.worker import worker
from nsai_work.cli.error_report import report_error
from nsai_work.cli.exit_codes import ExitCode, exit_code_of
from nsai_work.cli.plugin_commands import CommandGroup
from nsai_work.cli.store_access import close_all

DEBUG_VARIABLE = "NSAI_WORK_DEBUG"

EPILOG = "Exit codes: 0 done, 1 failed, 2 bad input, 3 not found, 124 timed out waiting, 130 interrupted."

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


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nsai-work {version('nsai-work')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version


app.command("run", rich_help_panel="Jobs")(run)
app.command("submit", rich_help_panel="Jobs")(submit)
app.command("list", rich_help_panel="Jobs")(list_jobs)
app.command("show", rich_help_panel="Jobs")(show)
app.command("steps", rich_help_panel="Jobs")(steps)
app.command("checkpoints", rich_help_panel="Jobs")(checkpoints)
app.command("watch", rich_help_panel="Jobs")(watch)
app.command("cancel", rich_help_panel="Jobs")(cancel)
app.command("retry", rich_help_panel="Jobs")(retry)
app.command("promote", rich_help_panel="Jobs")(promote)
app.command("worker", rich_help_panel="Service")(worker)
app.command("doctor", rich_help_panel="Service")(doctor)
app.add_typer(limits_app, name="limits", rich_help_panel="Service")
app.add_typer(database_app, name="db", rich_help_panel="Service")
app.command("backends", rich_help_panel="Backends")(backends)
app.command("complete", rich_help_panel="Backends")(complete)


def run_app() -> None:
    """Run the command of this process. An error becomes a message; a traceback is shown only when
    NSAI_WORK_DEBUG is set."""
    _show_every_character()
    try:
        _require_text(sys.argv[1:])
        app(prog_name="nsai-work")
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _leave_the_pipe()
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        known = error if isinstance(error, CrucibleError) else _unexpected(error)
        report_error(known, as_json="--json" in sys.argv[1:])
        sys.exit(exit_code_of(known))
    finally:
        close_all()


def _show_every_character() -> None:
    # what the terminal's encoding lacks, and lone surrogates in a service's answer, are shown as escapes
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_text(arguments: list[str]) -> None:
    for argument in arguments:
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            raise InvalidRequest.of("argument", argument, "it must be UTF-8 text")


def _unexpected(error: Exception) -> CrucibleError:
    return CrucibleError(
        f"this is a mistake in the program: {type(error).__name__}: {error}\n"
        f"{DEBUG_VARIABLE}=1 shows where it comes from"
    )


def _leave_the_pipe() -> None:
    # the reader went away (as in "| head"); Python's own flush at exit would complain once more
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(ExitCode.FAILED)
