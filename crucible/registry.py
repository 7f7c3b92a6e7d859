"""Backend discovery by entry-point name. stevedore is used only here, and imported only to load a backend."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from crucible.backend import Backend
from crucible.errors import CrucibleError, PluginError, UnknownBackend
from crucible.runtime.plugin_code import plugin_code
from crucible.values.suggestions import known_names

GROUP: Final = "crucible.backends"


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """A registered backend, as its package's metadata describes it."""

    name: str
    package: str | None
    version: str | None
    target: str


def backend_entries() -> tuple[BackendEntry, ...]:
    """Return all registered backends, sorted by name, with duplicates. Imports none of them."""
    entries = {_entry(point) for point in _entry_points(_search_path())}
    return tuple(sorted(entries, key=lambda entry: (entry.name, entry.target, entry.package or "")))


@dataclass(frozen=True, slots=True)
class InstalledBackends:
    """A snapshot of the installed backends, for several queries with one look at the file system."""

    search_path: tuple[tuple[str, int], ...]

    def names(self) -> tuple[str, ...]:
        """As ``backend_names``."""
        return _names(self.search_path)

    def backend_class(self, name: str) -> type[Backend]:
        """Return the class of a backend. Raises as ``load_backend``, except for settings."""
        return _load_class(name, self.search_path)

    def load(self, name: str, config: Mapping[str, JsonValue] | None = None) -> Backend:
        """As ``load_backend``."""
        return _create(name, _load_class(name, self.search_path), config)


def installed_backends() -> InstalledBackends:
    """Return a snapshot of the installed backends. Imports none of them."""
    return InstalledBackends(_search_path())


def backend_names() -> tuple[str, ...]:
    """Return the names that ``load_backend`` accepts. Imports none of the backends."""
    return installed_backends().names()


def load_backend(name: str, config: Mapping[str, JsonValue] | None = None) -> Backend:
    """Create the backend of that name with its settings; the caller opens it.

    Raises:
        UnknownBackend: no entry point has that name; the error lists the known names.
        PluginError: two packages register the name, the plug-in fails to import, or it is not a ``Backend``.
        InvalidRequest: a setting is invalid.
    """
    return installed_backends().load(name, config)


def _create(name: str, kind: type[Backend], config: Mapping[str, JsonValue] | None) -> Backend:
    try:
        with plugin_code():
            backend = kind(config)
    except CrucibleError:
        raise
    except Exception as exc:
        raise PluginError(f"the backend {name!r} cannot be created: {exc!r}", backend=name) from exc
    if not isinstance(backend, Backend):
        raise PluginError(f"the plug-in {name!r} created a {type(backend).__name__}, not a Backend", backend=name)
    return backend


def why_unusable(name: str) -> str | None:
    """Return the reason why a backend cannot be used in this process, or None if it can.

    Imports its plug-in and finds the packages that it ``requires``; creates and opens nothing.
    """
    try:
        kind = _load_class(name, _search_path())
    except CrucibleError as error:
        return error.message
    missing = [module for module in kind.requires if not _is_installed(module)]
    return f"not installed: {', '.join(missing)}" if missing else None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _search_path() -> tuple[tuple[str, int], ...]:
    """``sys.path`` with modification times: the key of the caches, so that a later installation is found."""
    return tuple((folder, _modified_at(folder)) for folder in sys.path)


def _modified_at(folder: str) -> int:
    try:
        # called a dozen times for every submitted job, and creating a Path takes longer than the call
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _entry_points(search_path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # reading the metadata of all packages takes 20 ms, which every submitted job would pay
    del search_path
    return tuple(entry_points(group=GROUP))


@lru_cache(maxsize=8)
def _names(search_path: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(sorted({point.name for point in _entry_points(search_path)}))


@lru_cache(maxsize=64)
def _load_class(name: str, search_path: tuple[tuple[str, int], ...]) -> type[Backend]:
    del search_path
    _require_unique(name)
    from stevedore.driver import DriverManager

    try:
        # with invoke_on_load, an instance that is falsy would be replaced by its class
        with plugin_code():
            kind: object = DriverManager(GROUP, name, invoke_on_load=False).driver
    except Exception as exc:
        reason = f"the backend {name!r} cannot be imported: {exc!r}{_shadowing(name)}"
        raise PluginError(reason, backend=name) from exc
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise PluginError(
            f"the entry point {name!r} is {kind!r}; it must name a class that implements crucible.Backend",
            backend=name,
        )
    return kind


def _shadowing(name: str) -> str:
    """Return the file that is imported in place of a plug-in's package, as text to append; none if it is its own.

    A folder of the same name in the current directory, or a package that was installed over it, comes first.
    """
    [point] = [point for point in _entry_points(_search_path()) if point.name == name]
    if point.pattern.match(point.value) is None:
        return ""  # no module at all
    package, _, rest = point.module.partition(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ""
    if spec is None or (not rest and spec.submodule_search_locations is None):
        return ""  # a package of one file is the module itself
    folders = [*(spec.submodule_search_locations or ())]
    own = Path(*rest.split(".")) if rest else Path()
    if any(
        (Path(folder) / own).is_dir() or (Path(folder) / own).with_suffix(".py").is_file() for folder in folders
    ):
        return ""
    where = spec.origin or ", ".join(folders)
    owner = "" if point.dist is None else f" of {point.dist.name}"
    return f"; {where} is imported in place of the package {package!r}{owner}: rename, move or uninstall it"


def _require_unique(name: str) -> None:
    if sum(point.name == name for point in _entry_points(_search_path())) == 1:
        return  # without the metadata of its package, which takes longer to parse than the backend to import
    entries = [entry for entry in backend_entries() if entry.name == name]
    if not entries:
        known = backend_names()
        raise UnknownBackend(
            f"backend: no backend is called {name!r}; {known_names(name, known, are='known are:')}",
            details={"field": "backend", "value": name, "known": list(known)},
        )
    if len(entries) > 1:
        owners = "; ".join(f"{entry.target} of {entry.package or 'an unknown package'}" for entry in entries)
        raise PluginError(
            f"the name {name!r} is registered {len(entries)} times: {owners}. Uninstall one", backend=name
        )


def _entry(point: EntryPoint) -> BackendEntry:
    dist = point.dist
    return BackendEntry(
        name=point.name,
        package=dist.name if dist else None,
        version=dist.version if dist else None,
        target=point.value,
    )
