"""The functions that a job may name: entry points, and functions of allowed modules."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from backends.python.settings import ALLOW_VARIABLE, PythonSettings
from backends.python.signature import Signature
from crucible.errors import CommandMissing, InvalidRequest, PluginError
from crucible.runtime.plugin_code import plugin_code
from crucible.values.suggestions import known_names

GROUP: Final = "nsai_work.functions"

_TARGET: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z]\w*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a job may name, with the validator of its arguments."""

    name: str
    call: Callable[..., Any]
    signature: Signature


class Catalog:
    """Finds functions by name. Each is imported once."""

    def __init__(self, settings: PythonSettings) -> None:
        self._settings = settings
        self._loaded: dict[str, Function] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of the entry points, sorted. Imports nothing."""
        return tuple(sorted({point.name for point in _entry_points(tuple(sys.path))}))

    def require(self, name: str) -> None:
        """Check that a function is registered, or its module allowed. Imports nothing.

        Raises:
            InvalidRequest: the name is malformed.
            CommandMissing: neither is the case here.
            PluginError: two packages register the name.
        """
        self._find(name)

    def load(self, name: str) -> Function:
        """Return a function, imported on first use: call it in a thread.

        Raises:
            InvalidRequest: the name is malformed, or names something else than a function of its module.
            CommandMissing: the function cannot be imported here.
            PluginError: its parameters cannot be validated, or two packages register the name.
        """
        if name not in self._loaded:
            found = self._find(name)
            # not by the class of entry points: the package importlib_metadata, once imported, has one of its own
            call = self._load_target(name, found) if isinstance(found, re.Match) else _load_entry_point(name, found)
            self._loaded[name] = Function(name, call, Signature(call, name))
        return self._loaded[name]

    def _find(self, name: str) -> EntryPoint | re.Match[str]:
        points = [point for point in _entry_points(tuple(sys.path)) if point.name == name]
        if len({point.value for point in points}) > 1:
            owners = "; ".join(sorted(point.value for point in points))
            raise PluginError(f"the function {name!r} is registered more than once: {owners}", backend="python")
        if points:
            return points[0]
        if ":" not in name:
            raise _missing(name, f"no package here registers it; {known_names(name, self.names())}")
        target = _TARGET.fullmatch(name)
        if target is None:
            raise _refused(name, "expected package.module:function")
        if not self._settings.allows(target["module"]):
            raise _missing(name, f"the module is not in {ALLOW_VARIABLE} here")
        return target

    def _load_target(self, name: str, target: re.Match[str]) -> Callable[..., Any]:
        module = _import(name, target["module"])
        found = getattr(module, target["name"], None)
        if found is None:
            functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
            raise _refused(name, f"the module has no such function; {known_names(target['name'], functions)}")
        # what a module merely imports, such as os.system, is not its own
        if not inspect.isfunction(found) or not self._settings.allows(found.__module__):
            raise _refused(name, "it must be a function that an allowed module defines")
        return found


def _load_entry_point(name: str, point: EntryPoint) -> Callable[..., Any]:
    try:
        with plugin_code():
            found = point.load()
    except Exception as error:
        raise _missing(name, f"{point.value} cannot be imported: {error!r}") from error
    if not callable(found):
        raise PluginError(f"the function {name!r} is {point.value}, which cannot be called", backend="python")
    call: Callable[..., Any] = found
    return call


def _import(name: str, module: str) -> Any:
    try:
        with plugin_code():
            return importlib.import_module(module)
    except Exception as error:
        raise _missing(name, f"{module} cannot be imported: {error!r}") from error


@lru_cache(maxsize=8)
def _entry_points(search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    # reading the metadata of all packages takes 20 ms
    del search_path
    return tuple(entry_points(group=GROUP))


def _refused(name: str, allowed: str) -> InvalidRequest:
    return InvalidRequest.of("command", name, allowed, backend="python")


def _missing(name: str, reason: str) -> CommandMissing:
    return CommandMissing(f"command: {name!r}: {reason}", backend="python", details={"field": "command"})
