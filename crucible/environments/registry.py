"""Discovery of environments by entry-point name, and of environments and reward functions by module and name."""

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pydantic import JsonValue

from crucible.environments.contract import Environment
from crucible.errors import CommandMissing, CrucibleError, InvalidRequest, PluginError
from crucible.runtime.plugin_code import plugin_code
from crucible.values.suggestions import known_names

GROUP: Final = "crucible.environments"
_TARGET: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z]\w*)", re.ASCII)


def environment_names() -> tuple[str, ...]:
    """Return the names of the registered environments. Imports none of them."""
    return tuple(sorted({point.name for point in _entry_points(tuple(sys.path))}))


def check_target(field: str, name: str) -> None:
    """Check the name of an environment or of a reward function. Imports nothing.

    Raises:
        InvalidRequest: it is neither a registered name nor of the form ``package.module:name``.
        PluginError: two packages register the name.
    """
    _find(field, name)


def load_environment(
    name: str, settings: Mapping[str, JsonValue] | None = None, *, allow: Sequence[str] = ()
) -> Environment:
    """Create an environment: of an entry point, or of a class ``package.module:Name`` in one of the modules that
    ``allow`` lists, submodules included. Imports its module: call it in a thread.

    Raises:
        InvalidRequest: the name or a setting is invalid.
        CommandMissing: this process may not import the module, or lacks it.
        PluginError: what is found is no ``Environment``, or it cannot be created.
    """
    found = load_target("environment.name", name, allow=allow)
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise PluginError(f"the environment {name!r} is {found!r}; it must be a class that implements Environment")
    try:
        environment = found(settings)
        environment.import_targets(allow)
    except CrucibleError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"the environment {name!r} cannot be created: {error!r}") from error
    return environment


def load_target(field: str, name: str, *, allow: Sequence[str] = ()) -> Any:
    """Return what an entry point or ``package.module:name`` refers to. Raises as ``load_environment``."""
    found = _find(field, name)
    # not by the class of entry points: the package importlib_metadata, once imported, has one of its own
    if not isinstance(found, re.Match):
        return _imported(field, name, found.load)
    module = found["module"]
    if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in allow):
        raise _missing(field, name, "the module is not in NSAI_WORK_PYTHON_ALLOW here")
    loaded = _imported(field, name, lambda: importlib.import_module(module))
    try:
        return getattr(loaded, found["name"])
    except AttributeError:
        package = module.partition(".")[0]
        own = [key for key, value in vars(loaded).items() if _is_of(value, package) and not key.startswith("_")]
        raise InvalidRequest.of(field, name, known_names(found["name"], own)) from None


def _is_of(value: object, package: str) -> bool:
    return callable(value) and str(getattr(value, "__module__", "")).partition(".")[0] == package


def _find(field: str, name: str) -> "EntryPoint | re.Match[str]":
    points = {point.value: point for point in _entry_points(tuple(sys.path)) if point.name == name}
    if len(points) > 1:
        raise PluginError(f"the environment {name!r} is registered more than once: {'; '.join(sorted(points))}")
    if points:
        return next(iter(points.values()))
    target = _TARGET.fullmatch(name)
    if target is None:
        known = known_names(name, environment_names(), are="environments here:")
        raise InvalidRequest.of(field, name, f"{known}; or package.module:name")
    return target


def _imported(field: str, name: str, load: Any) -> Any:
    try:
        with plugin_code():
            return load()
    except Exception as error:
        raise _missing(field, name, f"it cannot be imported: {error!r}") from error


@lru_cache(maxsize=8)
def _entry_points(search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    # reading the metadata of all packages takes 20 ms
    del search_path
    return tuple(entry_points(group=GROUP))


def _missing(field: str, name: str, reason: str) -> CommandMissing:
    return CommandMissing(f"{field}: {name!r}: {reason}", details={"field": field})
