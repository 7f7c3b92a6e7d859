"""Comparison of a submitted job with the stored job of the same idempotency key."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from crucible.errors import shown_value
from nsai_work.errors import KeyReused
from nsai_work.job import Job
from nsai_work.store.rows import spec_of

_OF_A_SUBMISSION: Final = frozenset({"id", "trace_id", "span_id", "trace_flags", "tracestate", "baggage"})
"""Fields that differ between two submissions of the same job."""

MAX_SHOWN: Final = 10


def require_same(job: Job, stored_id: str, stored: object) -> None:
    """Check that a job has the content of the stored one, whose spec is ``stored``.

    Raises:
        KeyReused: a field differs; the error names all of them.
    """
    content = {name: value for name, value in spec_of(job).items() if name not in _OF_A_SUBMISSION}
    if not isinstance(stored, Mapping):
        return  # it cannot be read, so it cannot be compared
    before = {name: value for name, value in stored.items() if name not in _OF_A_SUBMISSION}
    different = dict(_differences(before, content, ""))
    if different:
        shown = [f"{field} ({values})" for field, values in list(different.items())[:MAX_SHOWN]]
        more = f", and {len(different) - MAX_SHOWN} more" if len(different) > MAX_SHOWN else ""
        raise KeyReused(
            f"idempotency_key: {job.idempotency_key!r} belongs to job {stored_id}, which differs in "
            f"{', '.join(shown)}{more}; use another key for another job",
            details={"job_id": stored_id, "fields": [*different]},
        )


def _differences(before: object, now: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in [*before, *(name for name in now if name not in before)]:
            yield from _differences(before.get(name), now.get(name), f"{path}.{name}" if path else str(name))
    elif before != now:
        yield path, f"{_shown(before)} there, {_shown(now)} here"


def _shown(value: Any) -> str:
    return shown_value(value, 40)
