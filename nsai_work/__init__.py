"""Durable jobs for machine-learning work.

Every name is imported when it is first used: importing this package costs next to nothing. Jobs and policies
need pydantic alone; the store, Celery and the backends come with what uses them.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nsai_work.client.handle import JobHandle
    from nsai_work.client.submit import asubmit, submit, submit_many
    from nsai_work.job import Constraints, Job, Priority, Resources
    from nsai_work.lifecycle import JobStatus
    from nsai_work.payloads import JobKind
    from nsai_work.policies import CheckpointPolicy, RetryPolicy
    from nsai_work.settings import Settings

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

_HOMES: Final = {
    "nsai_work.client.handle": ("JobHandle",),
    "nsai_work.job": ("Constraints", "Job", "Priority", "Resources"),
    "nsai_work.lifecycle": ("JobStatus",),
    "nsai_work.payloads": ("JobKind",),
    "nsai_work.policies": ("CheckpointPolicy", "RetryPolicy"),
    "nsai_work.settings": ("Settings",),
    "nsai_work.client.submit": ("asubmit", "submit", "submit_many"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # to a type checker, a name that is not imported above does not exist

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
