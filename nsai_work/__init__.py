"""Durable jobs for machine-learning work.

Importing this needs pydantic alone; the store, Celery and the backends are imported when they are used.
"""

from typing import TYPE_CHECKING, Any

from nsai_work.job import Constraints, Job, Priority, Resources
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.policies import CheckpointPolicy, RetryPolicy

if TYPE_CHECKING:
    from nsai_work.handle import JobHandle
    from nsai_work.settings import Settings
    from nsai_work.submission import asubmit, submit, submit_many

__all__ = [
    "CheckpointPolicy",
    "Constraints",
    "Job",
    "JobHandle",
    "JobKind",
    "JobStatus",
    "Priority",
    "Resources",
    "RetryPolicy",
    "Settings",
    "asubmit",
    "submit",
    "submit_many",
]

_LAZY = {
    "JobHandle": "nsai_work.handle",
    "Settings": "nsai_work.settings",
    "asubmit": "nsai_work.submission",
    "submit": "nsai_work.submission",
    "submit_many": "nsai_work.submission",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
