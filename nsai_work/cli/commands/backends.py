"""``nsai-work backends``: what is installed, what it can do, and whether it can serve now."""

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from crucible.errors import CrucibleError, PluginError
from nsai_work.cli.output import as_json, write_json, write_table

if TYPE_CHECKING:
    from crucible.registry import BackendEntry


def backends(
    name: Annotated[str | None, typer.Argument(help="Only this backend.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything known as JSON.")] = False,
) -> None:
    """List the backends: package, version, capabilities, health. A broken one is listed with its error."""
    reports = [_report(entry) for entry in _entries(name)]
    if json_output:
        write_json(list(reports))
    else:
        headings = ("NAME", "PACKAGE", "VERSION", "HEALTH", "DOES", "MODELS")
        write_table(
            headings, map(_row, reports), nothing="no backend is installed (entry-point group crucible.backends)"
        )
        for report in reports:
            if trouble := _trouble(report):
                typer.echo(f"\n{report['name']}: {trouble}")


def _entries(name: str | None) -> "list[BackendEntry]":
    from crucible.registry import backend_entries, load_backend

    found = [entry for entry in backend_entries() if name in (None, entry.name)]
    if not found and name is not None:
        load_backend(name)  # raises the error that lists the known names
    return found


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
        report.update(_ask(entry.name))
    except PluginError as error:
        report["error"] = as_json(error.failure())
    except CrucibleError as error:
        # the plug-in is fine; it lacks a setting or its service does not answer
        report["health"] = {"ok": False, "reason": str(error), "details": {}}
    return report


def _ask(name: str) -> dict[str, JsonValue]:
    from crucible.blocking import connect

    with connect(name) as backend:
        health = backend.health_check()
        asked: dict[str, JsonValue] = {"health": as_json(health)}
        if health.ok:
            asked["capabilities"] = as_json(backend.capabilities())
    return asked


def _row(report: dict[str, JsonValue]) -> tuple[object, ...]:
    capabilities = report["capabilities"] if isinstance(report["capabilities"], dict) else {}
    models = capabilities.get("models")
    return (
        report["name"],
        report["package"],
        report["version"],
        _health_text(report),
        _claims(capabilities),
        _shortened([str(model) for model in models] if isinstance(models, list) else []),
    )


def _health_text(report: dict[str, JsonValue]) -> str:
    health = report["health"]
    if isinstance(health, dict):
        return "ok" if health["ok"] else "away"
    return "broken"


def _trouble(report: dict[str, JsonValue]) -> str | None:
    """Why a backend is broken or away; None when it is neither."""
    error, health = report["error"], report["health"]
    if isinstance(error, dict):
        return str(error["message"])
    return str(health["reason"]) if isinstance(health, dict) and not health["ok"] else None


def _claims(capabilities: dict[str, JsonValue]) -> str:
    flags = [name.removeprefix("supports_") for name, value in capabilities.items() if value is True]
    commands = capabilities.get("commands")
    return ", ".join(
        [*(flag for flag in flags if flag != "accepts_other_models"), *(["commands"] if commands else [])]
    )


def _shortened(models: list[str], most: int = 4) -> str:
    return ", ".join(models[:most]) + (f" and {len(models) - most} more" if len(models) > most else "")
