"""The contract between backends and their callers: prompts, completions, training, and backend discovery.

The names stand in ``__init__.pyi`` and are imported on first access; the heaviest import behind any of
them is pydantic.
"""

from crucible.runtime.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
