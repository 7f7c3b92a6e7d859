"""``nsai-work doctor``: is this installation able to submit and work jobs, and if not, what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.errors import CrucibleError, PluginError
from nsai_work.cli.error_report import describe_error
from nsai_work.cli.exit_codes import ExitCode
from nsai_work.cli.output import stdout_console, write_json

if TYPE_CHECKING:
    from nsai_work.settings import Settings


class Verdict(StrEnum):
    """Ok; or a note (something is not there that may not be needed); or broken, which makes the exit code 1."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


ROOM_NEEDED = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it."""

    subject: str
    verdict: Verdict
    detail: str
    advice: str | None = None


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check settings, database, broker, home and backends; say what to do about what is broken."""
    findings = list(_examine())
    if json_output:
        write_json([{**_as_data(finding)} for finding in findings])
    else:
        _print(findings)
    if any(finding.verdict is Verdict.BROKEN for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _examine() -> Iterator[Finding]:
    from nsai_work.cli.store_access import read_settings

    try:
        settings = read_settings()
    except CrucibleError as error:
        yield Finding("settings", Verdict.BROKEN, error.message, "correct the variable in the environment")
        return
    yield Finding("settings", Verdict.OK, _settings_text(settings))
    if settings.credentials:
        yield _guarded("credentials", partial(_credentials, settings))
    for subject, check in _CHECKS.items():
        yield _guarded(subject, partial(check, settings))
    yield from _backends()


def _guarded(subject: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except CrucibleError as error:
        message, _, hint = describe_error(error).removeprefix("error: ").partition("\n  hint: ")
        return Finding(subject, Verdict.BROKEN, message, hint or None)
    except Exception as error:
        return Finding(subject, Verdict.BROKEN, f"{type(error).__name__}: {error}")


def _settings_text(settings: "Settings") -> str:
    from nsai_work.settings import redacted

    database, broker = redacted(settings.database_url), redacted(settings.broker_url)
    return f"home {settings.home}, database {database}, broker {broker}"


def _credentials(settings: "Settings") -> Finding:
    from crucible.registry import backend_names

    shown = ", ".join(f"{backend} as {name}" for backend, name in settings.credentials.items())
    unknown = sorted(set(settings.credentials) - set(backend_names()))
    if unknown:
        advice = "correct NSAI_WORK_CREDENTIALS, or install the backend; nsai-work backends lists what is installed"
        return Finding("credentials", Verdict.NOTE, f"{shown}; not installed: {', '.join(unknown)}", advice)
    return Finding("credentials", Verdict.OK, f"jobs count against limits of {shown}")


def _home(settings: "Settings") -> Finding:
    import os
    import tempfile

    home = settings.make_home()
    try:
        with tempfile.NamedTemporaryFile(dir=home, prefix="doctor-") as file:
            # a full disk still takes an empty file
            file.write(bytes(ROOM_NEEDED))
    except OSError as error:
        advice = "make room and the folder writable, or set NSAI_WORK_HOME to another"
        return Finding("home", Verdict.BROKEN, f"{home} cannot be written: {os.strerror(error.errno or 0)}", advice)
    return Finding("home", Verdict.OK, f"{home} is writable")


def _database(settings: "Settings") -> Finding:
    from nsai_work.cli.store_access import the_store
    from nsai_work.settings import redacted
    from nsai_work.store.engine.migrate import HEAD, current_version

    version = the_store(settings).database.read(lambda tx: current_version(tx.connection))
    detail = f"{redacted(settings.database_url)} answers; its schema is {version or 'missing'}"
    if version != HEAD:
        return Finding("database", Verdict.BROKEN, f"{detail}, and {HEAD} is needed", "nsai-work db upgrade")
    return Finding("database", Verdict.OK, detail)


def _broker(settings: "Settings") -> Finding:
    from kombu.exceptions import OperationalError

    from nsai_work.dispatch.broker import broker_connection
    from nsai_work.settings import redacted

    shown = redacted(settings.broker_url)
    try:
        with broker_connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1)
    except (OperationalError, OSError) as error:
        advice = "check NSAI_WORK_BROKER_URL and that the broker runs; jobs are worked without it, a little later"
        return Finding("broker", Verdict.BROKEN, f"{shown} does not answer: {error}", advice)
    return Finding("broker", Verdict.OK, f"{shown} answers")


def _dev_server(settings: "Settings") -> Finding:
    import json

    import httpx

    file = settings.home / "dev-server.json"
    if not file.exists():
        return Finding("dev server", Verdict.NOTE, "none runs in this home", "nsai-work dev-server starts one")
    url = str(json.loads(file.read_text())["url"])
    try:
        httpx.get(f"{url}/api/v1/healthz", timeout=2.0, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        advice = f"start it again, or remove {file}"
        return Finding("dev server", Verdict.NOTE, f"{url} does not answer ({type(error).__name__})", advice)
    return Finding("dev server", Verdict.OK, url)


_CHECKS: dict[str, Callable[["Settings"], Finding]] = {
    "home": _home,
    "database": _database,
    "broker": _broker,
    "dev server": _dev_server,
}


def _backends() -> Iterator[Finding]:
    from crucible.registry import backend_names

    for name in backend_names():
        yield _guarded(f"backend {name}", partial(_backend, name))


def _backend(name: str) -> Finding:
    from crucible.blocking import connect

    subject = f"backend {name}"
    try:
        with connect(name) as backend:
            health = backend.health_check()
    except PluginError:
        raise
    except CrucibleError as error:
        return Finding(subject, Verdict.NOTE, error.message, "needed only for jobs of this backend")
    if not health.ok:
        return Finding(subject, Verdict.NOTE, f"loads; cannot serve now: {health.reason}")
    return Finding(subject, Verdict.OK, "loads and can serve")


def _as_data(finding: Finding) -> dict[str, str | None]:
    return {
        "subject": finding.subject,
        "verdict": finding.verdict.value,
        "detail": finding.detail,
        "advice": finding.advice,
    }


_STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.BROKEN: "bold red"}


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    console = stdout_console()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = Text(f"{finding.verdict:<6}", style=_STYLES[finding.verdict])
        console.print(Text.assemble(mark, f"  {finding.subject:<{width}}  {finding.detail}"), soft_wrap=True)
        if finding.advice:
            console.print(f"{'':<{width + 8}}  -> {finding.advice}", soft_wrap=True)
