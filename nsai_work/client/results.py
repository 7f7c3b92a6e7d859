"""The rows that a job has made: the answers of an inference job, or those in the result of a command."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from crucible import Prompt
from crucible.errors import InvalidRequest
from nsai_work.inference.answers import unpacked
from nsai_work.inference.prompts import PromptRow
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


def read_rows(
    store: "Store", job: Job, prompts: Callable[[], Iterator[PromptRow]]
) -> Iterator[dict[str, JsonValue]]:
    """Return the rows of a job as other jobs read them: an answer with the ``messages`` of its prompt. ``prompts``
    are those of the batch.

    Raises:
        InvalidJob, FileUnusable: a prompt cannot be read.
        InvalidRequest, UnreadableJournal: as ``read_results``.
    """
    payload, rows = job.parsed_payload, read_results(store, job)
    if not isinstance(payload, Inference):
        return rows
    if payload.prompt is not None:
        return ({**row, "messages": _messages(payload.prompt)} for row in rows)
    return _with_prompts(rows, prompts())


def _with_prompts(
    rows: Iterator[dict[str, JsonValue]], prompts: Iterator[PromptRow]
) -> Iterator[dict[str, JsonValue]]:
    # both are in the order of the file
    for row in rows:
        prompt = next(prompt for prompt in prompts if prompt.line == row["line"])
        yield {**row, "messages": _messages(prompt.prompt)}


def _messages(prompt: Prompt) -> list[JsonValue]:
    return [message.model_dump(mode="json", exclude_defaults=True) for message in prompt.conversation()]


def as_conversation(row: Mapping[str, Any]) -> dict[str, JsonValue] | None:
    """Return an answer with its prompt as a conversation to train on; None for a prompt that failed. A row of a
    command stays as it is."""
    if "prompt_sha256" not in row and "completion" not in row:
        return dict(row)
    choices = (row.get("completion") or {}).get("choices")
    if not choices:
        return None
    message = {name: value for name, value in choices[0]["message"].items() if value not in (None, [])}
    return {"messages": [*row["messages"], message]}


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
