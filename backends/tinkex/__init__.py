"""tinkex: the Tinker training API. Clients, recovery, and the backend of that name.

The names stand in ``__init__.pyi`` and are imported on first access.
"""

from crucible.runtime.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
