"""The rows that a job has made: the answers of an inference job, or those in the result of a command."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.inference.answers import unpacked
from nsai_work.job import Job
from nsai_work.payloads import CommandPayload, Inference

if TYPE_CHECKING:
    from nsai_work.store import Store


def read_results(store: "Store", job: Job) -> Iterator[dict[str, JsonValue]]:
    """Return the rows that a job has made so far, in order, one after the other.

    Raises:
        InvalidRequest: jobs of this kind make no rows, or the result of the command has none.
        UnreadableJournal: a row was damaged.
    """
    payload = job.parsed_payload
    if isinstance(payload, Inference):
        return _answers(store, job) if payload.input is not None else _answer(job)
    if isinstance(payload, CommandPayload):
        return _rows(job)
    raise InvalidRequest.of(
        "job", job.id, f"a job of kind {job.kind} makes no rows; nsai-work show has what it gives"
    )


def _answers(store: "Store", job: Job) -> Iterator[dict[str, JsonValue]]:
    after = 0
    while page := store.answers(job.id, after):
        for row in page:
            yield unpacked(row)
        after = page[-1].line


def _answer(job: Job) -> Iterator[dict[str, JsonValue]]:
    if job.result is not None:
        yield {"line": 1, "completion": job.result}


def _rows(job: Job) -> Iterator[dict[str, JsonValue]]:
    if job.result is None:
        return iter(())
    # a function that returns a list has it under the name value
    rows = job.result.get("rows", job.result.get("value"))
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not isinstance(rows, list) or len(found) < len(rows):
        raise InvalidRequest.of(
            "job", job.id, "its result has no rows: a list of objects; nsai-work show has the result"
        )
    return iter(found)
