"""Targets of alerts: what ``NSAI_WORK_NOTIFY`` names, and the contract of the plug-ins that send."""

import json
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, Protocol, runtime_checkable

from pydantic import BaseModel, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from crucible.errors import CrucibleError, InvalidRequest
from crucible.runtime.plugin_code import plugin_code
from crucible.values.field_names import fields_beside
from crucible.values.record import Record
from crucible.values.scalars import Name
from crucible.values.suggestions import known_names
from nsai_work.alerts.alert import Alert, AlertKind
from nsai_work.settings import Settings

GROUP: Final = "nsai_work.notifiers"
VARIABLE: Final = "NSAI_WORK_NOTIFY"
_DEFAULT: Final = (AlertKind.FAILED, AlertKind.RECOVERED, AlertKind.PAUSED)


@runtime_checkable
class Notifier(Protocol):
    """A sender of alerts, created with the settings of its target and used on one event loop."""

    async def send(self, alert: Alert) -> None:
        """Send an alert; the call may be repeated after an error or a crash.

        Raises:
            CrucibleError: it was not delivered. It is repeated later if the error is retryable, else given up.
        """

    async def close(self) -> None:
        """Release the connections. Nothing is sent afterwards."""


class TargetSpec(Record):
    """A target as ``NSAI_WORK_NOTIFY`` describes it; ``settings`` are those of its notifier."""

    notifier: Name = Field(min_length=1, max_length=100)
    on: tuple[AlertKind, ...] = Field(default=_DEFAULT, min_length=1)
    settings: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """A named target with its notifier, and the kinds of alerts that it is sent."""

    name: str
    kinds: frozenset[AlertKind]
    notifier: Notifier


def open_targets(settings: Settings) -> list[Target]:
    """Create the notifiers of all targets.

    Raises:
        InvalidRequest: the setting is not valid; the error names the target, and no value of it.
    """
    return [_open(name, spec) for name, spec in _specs(settings.notify).items()]


def _specs(text: str) -> dict[str, TargetSpec]:
    if not text:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not all(0 < len(name) <= 100 for name in data):
        example = '{"ops": {"notifier": "webhook", "settings": {"url": "https://..."}}}'
        raise _refused(f"must be a JSON object of targets by name, as {example}")
    return {name: _spec(name, value) for name, value in data.items()}


def _spec(name: str, value: Any) -> TargetSpec:
    try:
        return TargetSpec.model_validate(value)
    except ValidationError as error:
        raise _refused(complaints(f"{name!r:.80}", error, TargetSpec)) from None


def _open(name: str, spec: TargetSpec) -> Target:
    points = [point for point in entry_points(group=GROUP) if point.name == spec.notifier]
    if not points:
        known = sorted({point.name for point in entry_points(group=GROUP)})
        raise _refused(f"{name!r:.80}: no notifier {spec.notifier!r:.80}; {known_names(spec.notifier, known)}")
    if len({point.value for point in points}) > 1:
        raise _refused(f"{name!r:.80}: two packages register the notifier {spec.notifier!r:.80}")
    try:
        with plugin_code():
            notifier = points[0].load()(spec.settings)
    except ValidationError as error:
        raise _refused(complaints(f"{name!r:.80}: settings", error)) from None
    except CrucibleError as error:
        raise _refused(f"{name!r:.80}: {error.message}") from None
    except Exception as error:
        raise _refused(f"{name!r:.80}: the notifier cannot be created ({type(error).__name__})") from error
    if not isinstance(notifier, Notifier):
        raise _refused(f"{name!r:.80}: {points[0].value} is no notifier: it has no send and close")
    return Target(name, frozenset(spec.on), notifier)


def complaints(place: str, error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return the complaints of an error, of a ``model`` with the nearest names of unknown fields; without the
    values, one of which may be a secret."""
    return "; ".join(
        f"{place}: {'.'.join(str(part) for part in item['loc'])}: {_problem(item, model)}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _problem(item: ErrorDetails, model: type[BaseModel] | None) -> str:
    if model is not None and item["type"] == "extra_forbidden":
        return f"unknown field; {known_names(item['loc'][-1], fields_beside(model, item['loc']))}"
    return item["msg"].removeprefix("Value error, ")


def _refused(complaint: str) -> InvalidRequest:
    return InvalidRequest(f"{VARIABLE}: {complaint}", details={"fields": [VARIABLE]})
