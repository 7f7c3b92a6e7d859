"""The extras of this package: which URLs need which, and how to install it."""

import importlib.util
from typing import Final

_PACKAGES: Final = {
    "postgresql": ("postgres", ("psycopg",)),
    "postgres": ("postgres", ("psycopg",)),
    "/metrics": ("metrics", ("prometheus_client",)),
    "page": ("page", ("jinja2",)),
    "redis": ("redis", ("redis", "packaging")),
    "rediss": ("redis", ("redis", "packaging")),
}
"""The extra, and the packages that are imported, for the scheme of a URL, the route of metrics, or the page. kombu
imports packaging for Redis."""


def missing_extra(scheme: str) -> str | None:
    """Return what to install for URLs with this scheme (``postgresql+psycopg``), this route or the page; None
    if nothing is missing."""
    extra, packages = _PACKAGES.get(scheme.partition("+")[0], ("", ()))
    missing = [package for package in packages if not _is_installed(package)]
    if not missing:
        return None
    return f'{scheme} needs {" and ".join(missing)}, not installed here: pip install "nsai-work[{extra}]"'


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
