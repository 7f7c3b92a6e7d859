"""The answers of a batch: rows of the store, one for each prompt.

A row holds the prompt's ``line`` and ``prompt_sha256``, its ``id`` if present, and either ``completion`` or
``error``. The rows are also the record of progress: a later owner, on whatever machine, completes only the missing
prompts.
"""

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from crucible import Completion, FinishReason
from crucible.errors import Failure
from nsai_work.errors import InvalidJob, UnreadableJournal
from nsai_work.inference.prompts import PromptRow
from nsai_work.journal import AnswerRow

COMPLETE: Final = frozenset(reason.value for reason in FinishReason if reason.is_complete)


@dataclass(slots=True)
class Tally:
    """Totals of the answers. ``incomplete`` rows are among those that succeeded: an answer in them was cut,
    refused or filtered, or the service did not report why it ended. ``finish_reasons`` counts answers, of which a
    row may have several."""

    succeeded: int = 0
    incomplete: int = 0
    failed: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def done(self) -> int:
        """The number of rows, successful or not."""
        return self.succeeded + self.failed

    def count(self, row: Mapping[str, Any]) -> None:
        """Add a row to the totals. An answer that was cut or refused has succeeded, and is counted as such too."""
        if row.get("error") is not None:
            self.failed += 1
            return
        self.succeeded += 1
        reasons = finish_reasons(row.get("completion") or {})
        self.finish_reasons.update(reasons)
        self.incomplete += not all(reason in COMPLETE for reason in reasons)
        usage = (row.get("completion") or {}).get("usage") or {}
        self.prompt_tokens += usage.get("prompt_tokens") or 0
        self.completion_tokens += usage.get("completion_tokens") or 0


def finish_reasons(completion: Mapping[str, Any]) -> list[str]:
    """The finish reason of each answer of a completion, given as JSON; ``none`` where the service reports none."""
    return [choice.get("finish_reason") or "none" for choice in completion.get("choices") or ()]


class _Stored(BaseModel):
    """Fields of a row that are read again. Strict: the row may be damaged, or written by another version."""

    model_config = ConfigDict(strict=True)


class _StoredUsage(_Stored):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


class _StoredChoice(_Stored):
    finish_reason: str | None = None


class _StoredCompletion(_Stored):
    choices: list[_StoredChoice] | None = None
    usage: _StoredUsage | None = None


class _StoredAnswer(_Stored):
    line: PositiveInt
    prompt_sha256: str
    completion: _StoredCompletion | None = None
    error: dict[str, Any] | None = None


def answer_of(
    row: PromptRow, *, completion: Completion | None = None, error: Failure | None = None
) -> dict[str, Any]:
    """The answer to a prompt, as a row of JSON."""
    answer: dict[str, Any] = {"line": row.line, "prompt_sha256": row.digest}
    if row.id is not None:
        answer["id"] = row.id
    if completion is not None:
        answer["completion"] = completion.model_dump(mode="json", exclude_none=True)
    if error is not None:
        answer["error"] = error.model_dump(mode="json", exclude_none=True)
    return answer


def packed(answer: Mapping[str, Any]) -> AnswerRow:
    """Compress an answer to the row that the store keeps."""
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return AnswerRow(answer["line"], answer["prompt_sha256"], zlib.compress(text.encode()))


def unpacked_line(row: AnswerRow) -> bytes:
    """Return an answer as the line of an answer file, without its end. Raises UnreadableJournal."""
    try:
        return zlib.decompress(row.data)
    except zlib.error as error:
        raise _unreadable(row, str(error)) from error


def unpacked(row: AnswerRow) -> dict[str, Any]:
    """Return an answer.

    Raises:
        UnreadableJournal: the row was damaged, or written by another version.
    """
    try:
        answer: dict[str, Any] = json.loads(unpacked_line(row))
        _StoredAnswer.model_validate(answer)
    except (ValueError, RecursionError) as error:
        raise _unreadable(row, "is not an answer") from error
    if (answer["line"], answer["prompt_sha256"]) != (row.line, row.prompt_sha256):
        raise _unreadable(row, "is the answer of another row")
    return answer


def _unreadable(row: AnswerRow, problem: str) -> UnreadableJournal:
    return UnreadableJournal(
        f"nsai_answers, row of line {row.line}: {problem}",
        details={"table": "nsai_answers", "row": {"line": row.line}},
    )


class KeptAnswers:
    """The answered prompts of a batch, and the totals."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._digests: dict[int, str] = {}

    def add(self, answer: Mapping[str, Any]) -> None:
        """Count an answer, unless its line has one already."""
        if answer["line"] not in self._digests:
            self._digests[answer["line"]] = answer["prompt_sha256"]
            self.tally.count(answer)

    def has(self, row: PromptRow) -> bool:
        """Return whether a prompt is answered.

        Raises:
            InvalidJob: its line has the answer to another prompt: the job's input is another file than before.
        """
        found = self._digests.get(row.line)
        if found not in (None, row.digest):
            raise InvalidJob(
                f"payload.input.path: line {row.line}: the job has the answer to another prompt of this line; "
                "submit a new job for another file",
                details={"field": "payload.input.path", "line": row.line},
            )
        return found is not None
