"""Changes of job files, for tests of bad input."""

from collections.abc import Callable
from typing import Any, TypeAlias

JobFields: TypeAlias = dict[str, Any]
Change: TypeAlias = Callable[[JobFields], object]


def set_field(path: str, value: Any) -> Change:
    """Return a change that sets a field of a job, such as ``payload.lora.rank``."""

    def change(job: JobFields) -> None:
        *parents, last = path.split(".")
        for name in parents:
            job = job.setdefault(name, {})
        job[last] = value

    return change
