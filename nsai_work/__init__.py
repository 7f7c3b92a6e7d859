"""Durable jobs for machine-learning work.

The names stand in ``__init__.pyi`` and are imported on first access. Jobs and policies need only pydantic; the
store, Celery and the backends are imported by the names that use them.
"""

import crucible

_SHADOWED = (
    f"{crucible.__file__ or list(crucible.__path__)} is imported in place of the package 'crucible' of nsai-work; "
    "rename or move it, or: pip uninstall crucible && pip install --force-reinstall --no-deps nsai-work"
)
try:
    from crucible.runtime.lazy_names import lazy_names
except ImportError as error:
    raise ImportError(_SHADOWED) from error
if vars(crucible).get("lazy_names") is not lazy_names:
    # A package of that name was installed over it, and replaced its first file.
    raise ImportError(_SHADOWED)

__getattr__, __dir__ = lazy_names(__name__)
