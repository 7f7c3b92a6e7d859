"""``nsai-work backends``: the installed backends, their capabilities and their health."""

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from crucible.errors import CrucibleError, PluginError
from nsai_work.cli.output.stdout import write_json, write_line, write_table
from nsai_work.presentation.json_forms import as_json

if TYPE_CHECKING:
    from crucible.registry import BackendEntry

MAX_LISTED_MODELS = 4


def backends(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show only this backend.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print all details as JSON.")] = False,
) -> None:
    """List the installed backends with their health and capabilities.

    A backend that fails to load is listed with its error.
    """
    reports = [_report(entry) for entry in _entries(name)]
    if json_output:
        write_json(list(reports))
        return
    write_table(
        ("NAME", "PACKAGE", "VERSION", "HEALTH", "CAPABILITIES", "MODELS"),
        map(_row, reports),
        if_empty="no backends are installed (entry-point group crucible.backends)",
    )
    for report in reports:
        if problem := _problem(report):
            write_line(f"\n{report['name']}: {problem}")


def _entries(name: str | None) -> "list[BackendEntry]":
    from crucible.registry import backend_entries, load_backend

    entries = [entry for entry in backend_entries() if name in (None, entry.name)]
    if not entries and name is not None:
        load_backend(name)  # raises UnknownBackend, which lists the known names
    return entries


def _report(entry: "BackendEntry") -> dict[str, JsonValue]:
    report: dict[str, JsonValue] = {
        "name": entry.name,
        "package": entry.package,
        "version": entry.version,
        "target": entry.target,
        "health": None,
        "capabilities": None,
        "error": None,
    }
    try:
        report.update(_query(entry.name))
    except PluginError as error:
        report["error"] = as_json(error.failure())
    except CrucibleError as error:
        # the plug-in works, but lacks a setting or cannot reach its service
        report["health"] = {"ok": False, "reason": str(error), "details": {}}
    return report


def _query(name: str) -> dict[str, JsonValue]:
    from crucible.runtime.blocking_backend import connect

    with connect(name) as backend:
        health = backend.health_check()
        answers: dict[str, JsonValue] = {"health": as_json(health)}
        if health.ok:
            answers["capabilities"] = as_json(backend.capabilities())
    return answers


def _row(report: dict[str, JsonValue]) -> tuple[object, ...]:
    capabilities = report["capabilities"] if isinstance(report["capabilities"], dict) else {}
    models = capabilities.get("models")
    return (
        report["name"],
        report["package"],
        report["version"],
        _health_text(report),
        _capabilities_text(capabilities),
        _models_text([str(model) for model in models] if isinstance(models, list) else []),
    )


def _health_text(report: dict[str, JsonValue]) -> str:
    health = report["health"]
    if isinstance(health, dict):
        return "ok" if health["ok"] else "unavailable"
    return "broken"


def _problem(report: dict[str, JsonValue]) -> str | None:
    """Return why a backend is broken or unavailable; None if it is neither."""
    error, health = report["error"], report["health"]
    if isinstance(error, dict):
        return str(error["message"])
    return str(health["reason"]) if isinstance(health, dict) and not health["ok"] else None


def _capabilities_text(capabilities: dict[str, JsonValue]) -> str:
    flags = [name.removeprefix("supports_") for name, value in capabilities.items() if value is True]
    commands = ["commands"] if capabilities.get("commands") else []
    return ", ".join([*(flag for flag in flags if flag != "accepts_other_models"), *commands])


def _models_text(models: list[str]) -> str:
    hidden = len(models) - MAX_LISTED_MODELS
    return ", ".join(models[:MAX_LISTED_MODELS]) + (f" and {hidden} more" if hidden > 0 else "")
