"""Assertions about submitted jobs."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from crucible.values.suggestions import known_names
from nsai_work.job import Job
from nsai_work.testing.store import active_store


def assert_submitted(*, count: int | None = None, **fields: Any) -> Job:
    """Assert that a job with these fields was submitted to the isolated store, and return the newest one.

    ``fields`` are those of ``Job``. An object, such as ``payload``, matches if it has the given fields, at any
    depth; a list must be equal. ``count`` is the exact number of such jobs.

    Raises:
        AssertionError: there is no such job, or another number of them. It lists the submitted jobs, each with the
            first field that differs.
        TypeError: ``Job`` has no such field.
    """
    __tracebackhide__ = True
    if count is not None and count < 1:
        raise ValueError("count must be at least 1; use assert_not_submitted")
    found = _matching(
        fields, "a job" if count is None else f"{count} job(s)", lambda n: n == count if count else n > 0
    )
    return found[-1]


def assert_not_submitted(**fields: Any) -> None:
    """Assert that no job with these fields was submitted. Fields match as in ``assert_submitted``."""
    __tracebackhide__ = True
    _matching(fields, "no job", lambda number: number == 0)


def _matching(fields: Mapping[str, Any], expected: str, accept: Callable[[int], bool]) -> list[Job]:
    """Return the jobs with these fields, if their number is accepted. Raises as ``assert_submitted``."""
    __tracebackhide__ = True
    for name in fields:
        if name not in Job.model_fields:
            raise TypeError(f"Job has no field {name!r}; {known_names(name, Job.model_fields)}")
    wanted = to_jsonable_python(fields)
    jobs = active_store().jobs()
    differences = [_first_difference(wanted, job.model_dump(mode="json"), "") for job in jobs]
    found = [job for job, difference in zip(jobs, differences, strict=True) if difference is None]
    if accept(len(found)):
        return found
    lines = [f"expected {expected} with {_shown(wanted)}; submitted were {len(jobs)}:"]
    lines += [
        f"  {job.id} {job.kind} on {job.backend}: {difference or 'matches'}"
        for job, difference in zip(jobs, differences, strict=True)
    ]
    raise AssertionError("\n".join(lines))


def _first_difference(wanted: object, actual: object, path: str) -> str | None:
    """Return a description of the first field that differs; None if all are equal."""
    if isinstance(wanted, Mapping) and isinstance(actual, Mapping):
        for name, value in wanted.items():
            field = f"{path}.{name}" if path else str(name)
            if name not in actual:
                return f"{field} is missing"
            difference = _first_difference(value, actual[name], field)
            if difference is not None:
                return difference
        return None
    same_type = isinstance(wanted, bool) == isinstance(actual, bool)
    return None if wanted == actual and same_type else f"{path} is {_shown(actual)}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 300 else f"{text[:297]}..."
