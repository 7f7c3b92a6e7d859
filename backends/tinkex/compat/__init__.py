"""The names of the Tinker SDK on this client: ``import backends.tinkex.compat as tinker``.

The names stand in ``__init__.pyi`` and are imported on first access.
"""

from crucible.runtime.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
