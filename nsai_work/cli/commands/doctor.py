"""``nsai-work doctor``: checks whether this installation can submit and run jobs, with advice for each problem."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.errors import CrucibleError, PluginError
from crucible.rendering.plain_text import plain_text
from nsai_work.cli.exit_codes import ExitCode
from nsai_work.cli.output.error_report import advice_for, describe_error
from nsai_work.cli.output.stdout import stdout_console, write_json
from nsai_work.cli.parameters import DEFAULT_BACKEND

if TYPE_CHECKING:
    from nsai_work.settings import Settings

MIN_FREE_BYTES = 1 << 20


class CheckStatus(StrEnum):
    """Result of a check. NOTE: something is missing that may not be needed. BROKEN makes the exit code 1."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """A completed check: its subject, its result, and what the user can do about it."""

    subject: str
    status: CheckStatus
    detail: str
    advice: str | None = None


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check settings, database, broker and backends, with advice for each problem.

    The exit code is 1 if something is broken.
    """
    checks = list(_run_checks())
    if json_output:
        write_json([{**_as_data(check)} for check in checks])
    else:
        _print(checks)
    if any(check.status is CheckStatus.BROKEN for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def _run_checks() -> Iterator[Check]:
    from nsai_work.cli.store_access import load_settings
    from nsai_work.settings import unknown_variables

    try:
        settings = load_settings()
    except CrucibleError as error:
        yield Check("settings", CheckStatus.BROKEN, error.message, "correct the environment variable")
        return
    yield Check("settings", CheckStatus.OK, _settings_text(settings))
    for name, known in unknown_variables().items():
        yield Check(
            "settings", CheckStatus.BROKEN, f"nothing reads {name}; {known}", "correct or unset the variable"
        )
    if settings.credentials:
        yield _checked("credentials", partial(_check_credentials, settings))
    if settings.notify:
        yield _checked("alerts", partial(_check_alerts, settings))
    for subject, check in _CHECKS.items():
        yield _checked(subject, partial(check, settings))
    yield from _check_backends()


def _checked(subject: str, check: Callable[[], Check]) -> Check:
    """Run a check. An exception makes its subject BROKEN."""
    try:
        return check()
    except CrucibleError as error:
        message, _, advice = describe_error(error).removeprefix("error: ").partition("\n  hint: ")
        return Check(subject, CheckStatus.BROKEN, message, advice or None)
    except Exception as error:
        return Check(subject, CheckStatus.BROKEN, f"{type(error).__name__}: {error}")


def _settings_text(settings: "Settings") -> str:
    from nsai_work.settings import redacted

    database, broker = redacted(settings.database_url), redacted(settings.broker_url)
    return f"home {settings.home}, database {database}, broker {broker}"


def _check_credentials(settings: "Settings") -> Check:
    from crucible.registry import backend_names

    accounts = ", ".join(f"{backend} as {name}" for backend, name in settings.credentials.items())
    unknown = sorted(set(settings.credentials) - set(backend_names()))
    if unknown:
        advice = (
            "correct NSAI_WORK_CREDENTIALS, or install the backend; nsai-work backends lists the installed backends"
        )
        return Check("credentials", CheckStatus.NOTE, f"{accounts}; not installed: {', '.join(unknown)}", advice)
    return Check("credentials", CheckStatus.OK, f"jobs count against the limits of {accounts}")


def _check_alerts(settings: "Settings") -> Check:
    from nsai_work.alerts.target import open_targets

    targets = open_targets(settings)
    shown = [f"{target.name} ({', '.join(sorted(target.kinds))})" for target in targets]
    return Check("alerts", CheckStatus.OK, f"workers send alerts to {'; '.join(shown)}")


def _check_home(settings: "Settings") -> Check:
    import os
    import shutil

    home = settings.home
    # a check writes nothing: the first job makes the folder
    folder = next(path for path in (home, *home.parents) if path.exists())
    problem = None
    if not folder.is_dir():
        problem = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"{folder} is not writable"
    elif shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        problem = f"the disk of {folder} is full"
    if problem is not None:
        advice = "free disk space and make the folder writable, or set NSAI_WORK_HOME to another folder"
        return Check("home", CheckStatus.BROKEN, f"cannot write to {home}: {problem}", advice)
    if folder != home:
        return Check("home", CheckStatus.OK, f"{home} does not exist yet; it will be created")
    if home.stat().st_mode & 0o077:
        return Check("home", CheckStatus.NOTE, f"{home} is accessible to others", f"chmod 700 {home}")
    return Check("home", CheckStatus.OK, f"{home} is writable")


def _check_database(settings: "Settings") -> Check:
    from nsai_work.cli.store_access import missing_store
    from nsai_work.settings import redacted
    from nsai_work.store import database_state
    from nsai_work.store.engine.migrate import HEAD

    if missing_store(settings):
        return Check("database", CheckStatus.OK, f"{settings.database_url} does not exist yet; it will be created")
    version, pooled, has_presence = database_state(settings.database_url)
    detail = f"{redacted(settings.database_url)} answers; schema version: {version or 'none'}"
    if pooled:
        detail += "; through a connection pooler, so without prepared statements and notifications unless the URL"
        detail += " has prepared=on or notices=on"
    if not has_presence:
        detail += f"; a worker's death is noticed by its lease alone, after {settings.lease_ttl_s:g} s"
    if version != HEAD and settings.migrate and (version is None or version < HEAD):
        detail += f"; the next process upgrades it to {HEAD}"
    elif version != HEAD:
        return Check("database", CheckStatus.BROKEN, f"{detail}, required: {HEAD}", "run nsai-work db upgrade")
    return Check("database", CheckStatus.OK, detail)


def _check_broker(settings: "Settings") -> Check:
    from kombu.exceptions import OperationalError

    from nsai_work.dispatch.broker import broker_connection
    from nsai_work.settings import redacted

    url = redacted(settings.broker_url)
    try:
        with broker_connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1)
    except (OperationalError, OSError) as error:
        advice = "check NSAI_WORK_BROKER_URL and that the broker is running; without it, jobs start a little later"
        return Check("broker", CheckStatus.BROKEN, f"{url} does not answer: {error}", advice)
    return Check("broker", CheckStatus.OK, f"{url} answers")


def _check_dev_server(settings: "Settings") -> Check:
    import json

    import httpx

    file = settings.home / "dev-server.json"
    if not file.exists():
        return Check(
            "dev server", CheckStatus.NOTE, "not running in this home", "to start it: nsai-work dev-server"
        )
    url = str(json.loads(file.read_text())["url"])
    try:
        httpx.get(f"{url}/api/v1/healthz", timeout=2.0, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        advice = f"restart it, or delete {file}"
        return Check("dev server", CheckStatus.NOTE, f"{url} does not answer ({type(error).__name__})", advice)
    return Check("dev server", CheckStatus.OK, url)


_CHECKS: dict[str, Callable[["Settings"], Check]] = {
    "home": _check_home,
    "database": _check_database,
    "broker": _check_broker,
    "dev server": _check_dev_server,
}


def _check_backends() -> Iterator[Check]:
    from crucible.registry import backend_names

    for name in backend_names():
        yield _checked(f"backend {name}", partial(_check_backend, name))


def _check_backend(name: str) -> Check:
    from crucible.runtime.blocking_backend import connect

    subject = f"backend {name}"
    try:
        with connect(name) as backend:
            health = backend.health_check()
    except PluginError:
        raise
    except CrucibleError as error:
        return _unusable(name, error.message, advice_for(error))
    if not health.ok:
        return _unusable(name, f"installed, but unavailable: {health.reason}", None)
    return Check(subject, CheckStatus.OK, "available")


def _unusable(name: str, reason: str, advice: str | None) -> Check:
    """A backend that cannot work is needed only for its own jobs, but for the default backend of all commands."""
    if name != DEFAULT_BACKEND:
        return Check(f"backend {name}", CheckStatus.NOTE, reason, "needed only for jobs of this backend")
    advice = advice or f"to use another backend, name it in jobs and with --backend; {name} is the default"
    return Check(f"backend {name}", CheckStatus.BROKEN, reason, advice)


def _as_data(check: Check) -> dict[str, str | None]:
    return {
        "subject": check.subject,
        "verdict": check.status.value,
        "detail": check.detail,
        "advice": check.advice,
    }


_STYLES = {CheckStatus.OK: "green", CheckStatus.NOTE: "yellow", CheckStatus.BROKEN: "bold red"}


def _print(checks: list[Check]) -> None:
    from rich.text import Text

    console = stdout_console()
    width = max(len(check.subject) for check in checks)
    for check in checks:
        status = Text(f"{check.status:<6}", style=_STYLES[check.status])
        console.print(
            Text.assemble(status, plain_text(f"  {check.subject:<{width}}  {check.detail}")), soft_wrap=True
        )
        if check.advice:
            console.print(plain_text(f"{'':<{width + 8}}  -> {check.advice}"), soft_wrap=True)
