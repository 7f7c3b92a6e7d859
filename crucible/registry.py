"""Backends by entry-point name. The only file that names stevedore, and it imports it only to load one."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from pydantic import JsonValue

from crucible.backend import Backend
from crucible.errors import CrucibleError, PluginError, UnknownBackend

GROUP: Final = "crucible.backends"


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """A registered backend: what is known of it without importing it."""

    name: str
    package: str | None
    version: str | None
    target: str


def backend_entries() -> tuple[BackendEntry, ...]:
    """All registered backends by name, duplicates included. Imports none of them."""
    found = {_entry(point) for point in _installed(_places())}
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.target, entry.package or "")))


@dataclass(frozen=True, slots=True)
class InstalledBackends:
    """The backends that were installed at one moment; to ask for several without looking again each time."""

    places: tuple[tuple[str, int], ...]

    def names(self) -> tuple[str, ...]:
        """As ``backend_names``."""
        return _names(self.places)

    def load(self, name: str, config: Mapping[str, JsonValue] | None = None) -> Backend:
        """As ``load_backend``."""
        return _made(name, _load_class(name, self.places), config)


def installed_backends() -> InstalledBackends:
    """The backends that are installed now. Imports none of them."""
    return InstalledBackends(_places())


def backend_names() -> tuple[str, ...]:
    """The names that ``load_backend`` knows. Imports nothing."""
    return installed_backends().names()


def load_backend(name: str, config: Mapping[str, JsonValue] | None = None) -> Backend:
    """The backend of that name, with its settings, not yet opened.

    Raises:
        UnknownBackend: no entry point has that name; the error lists those that exist.
        PluginError: two packages claim the name, the plug-in fails to import, or it is no ``Backend``.
        InvalidRequest: a setting is wrong.
    """
    return installed_backends().load(name, config)


def _made(name: str, kind: type[Backend], config: Mapping[str, JsonValue] | None) -> Backend:
    try:
        backend = kind(config)
    except CrucibleError:
        raise
    except Exception as exc:
        raise PluginError(f"the backend {name!r} fails when it is made: {exc!r}", backend=name) from exc
    if not isinstance(backend, Backend):
        raise PluginError(f"the plug-in {name!r} made {type(backend).__name__}, which is no Backend", backend=name)
    return backend


def why_unusable(name: str) -> str | None:
    """Why a backend cannot be used in this process, or None if nothing speaks against it.

    Its plug-in is imported, the packages that it ``requires`` are looked for, and nothing is made or opened.
    """
    try:
        kind = _load_class(name, _places())
    except CrucibleError as error:
        return error.message
    missing = [module for module in kind.requires if not _is_installed(module)]
    return f"not installed: {', '.join(missing)}" if missing else None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _places() -> tuple[tuple[str, int], ...]:
    """Where packages are looked for, and when each place last changed: what is installed later is found."""
    return tuple((place, _changed_at(place)) for place in sys.path)


def _changed_at(place: str) -> int:
    try:
        # asked a dozen times for every job that is submitted: making a Path takes longer than the answer
        return os.stat(place or ".").st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _installed(places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # reading the metadata of all packages takes 20 ms; a queue asks for every job
    del places
    return tuple(entry_points(group=GROUP))


@lru_cache(maxsize=8)
def _names(places: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(sorted({point.name for point in _installed(places)}))


@lru_cache(maxsize=64)
def _load_class(name: str, places: tuple[tuple[str, int], ...]) -> type[Backend]:
    del places
    _require_one(name)
    from stevedore.driver import DriverManager

    try:
        # invoke_on_load would hand out the class in place of an instance that is falsy.
        kind: object = DriverManager(GROUP, name, invoke_on_load=False).driver
    except Exception as exc:
        raise PluginError(f"the backend {name!r} cannot be imported: {exc!r}", backend=name) from exc
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise PluginError(
            f"the entry point {name!r} is {kind!r}; it must name a class that implements crucible.Backend",
            backend=name,
        )
    return kind


def _require_one(name: str) -> None:
    claims = [entry for entry in backend_entries() if entry.name == name]
    if not claims:
        known = ", ".join(backend_names()) or "none"
        raise UnknownBackend(
            f"backend: no backend is called {name!r}; known are: {known}",
            details={"field": "backend", "value": name, "known": list(backend_names())},
        )
    if len(claims) > 1:
        who = "; ".join(f"{entry.target} of {entry.package or 'an unknown package'}" for entry in claims)
        raise PluginError(f"the name {name!r} is claimed {len(claims)} times: {who}. Remove one", backend=name)


def _entry(point: EntryPoint) -> BackendEntry:
    dist = point.dist
    return BackendEntry(
        name=point.name,
        package=dist.name if dist else None,
        version=dist.version if dist else None,
        target=point.value,
    )
