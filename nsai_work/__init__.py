"""Durable jobs for machine-learning work.

The names stand in ``__init__.pyi`` and are imported on first access. Jobs and policies need only pydantic; the
store, Celery and the backends are imported by the names that use them.
"""

from crucible.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
