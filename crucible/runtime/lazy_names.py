"""Lazy public names: a package's ``__init__.pyi`` lists them, and each is imported on first access.

The stub serves type checkers and the running program alike, so every name is written once::

    # package/__init__.py
    from crucible.runtime.lazy_names import lazy_names
    __getattr__, __dir__ = lazy_names(__name__)

    # package/__init__.pyi
    from package.module import Name as Name

Importing the package reads nothing; the stub is parsed on the first access to a name or to ``__all__``. (The
library lazy_loader parses it at import, and accepts only relative imports of the same package.)
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package; ``__all__`` is the sorted list of its stub's names."""

    def get_name(name: str) -> Any:
        modules = _modules_by_name(package)
        if name == "__all__":
            value: Any = sorted(modules)
        elif name in modules:
            value = _load(modules[name], name, package)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted(_modules_by_name(package))

    return get_name, list_names


@cache
def _modules_by_name(package: str) -> dict[str, str]:
    """The imports of the package's stub: the module of each name."""
    import ast
    from pkgutil import get_data

    stub = ast.parse(get_data(package, "__init__.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or package for node in imports for alias in node.names}


def _load(module: str, name: str, package: str) -> Any:
    return import_module(f"{package}.{name}") if module == package else getattr(import_module(module), name)
