"""The records of the Tinker API. The names stand in ``__init__.pyi`` and are imported on first access."""

from crucible.runtime.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
