"""Sinks by name: those of this package, and those of the entry-point group ``nsai_work.sinks``."""

import importlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from crucible.errors import CrucibleError, PluginError
from crucible.runtime.plugin_code import plugin_code
from crucible.values.suggestions import known_names
from nsai_work.errors import InvalidJob
from nsai_work.payloads import SinkSpec
from nsai_work.sinks.contract import Sink

GROUP: Final = "nsai_work.sinks"
BUILT_IN: Final[Mapping[str, str]] = {
    "jsonl": "nsai_work.sinks.jsonl:JsonlSink",
    "tensorboard": "nsai_work.sinks.tensorboard:TensorBoardSink",
    "trackio": "nsai_work.sinks.trackio:TrackioSink",
    "wandb": "nsai_work.sinks.wandb:WandbSink",
}
"""The sinks of this package, with their classes."""


def load_sink(spec: SinkSpec) -> Sink:
    """Create the sink of a job. Imports its module, but none of the packages that it ``requires``.

    Raises:
        InvalidJob: no sink has the name, or a setting is invalid.
        PluginError: the class cannot be imported, or is no sink.
    """
    kind = _load_class(spec.sink)
    try:
        return kind(spec.settings)
    except CrucibleError as error:
        field = f"payload.sinks.{spec.sink}"
        raise InvalidJob(f"{field}: {error.message}", details={"field": field}) from error


def require_packages(sink: Sink) -> None:
    """Check that the packages of a sink are installed in this process. Raises PluginError, which names them."""
    missing = [name for name in sink.requires if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f"not installed here: {', '.join(missing)}")


def _load_class(name: str) -> type[Sink]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: object = getattr(importlib.import_module(module), attribute)
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            names = sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})
            raise InvalidJob.of("payload.sinks.sink", name, known_names(name, names, are="sinks here:"))
        try:
            with plugin_code():
                found = points[0].load()
        except Exception as error:
            raise PluginError(f"the sink {name!r} cannot be imported: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Sink)):
        raise PluginError(f"the sink {name!r} is {found!r}; it must be a class that implements nsai_work.sinks")
    return found
