"""The worker: claims jobs, runs hundreds of them on one event loop, and records what came of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsai_work.worker.inline import run_inline
    from nsai_work.worker.service import run_worker

__all__ = ["run_inline", "run_worker"]

_LAZY = {"run_inline": "nsai_work.worker.inline", "run_worker": "nsai_work.worker.service"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
