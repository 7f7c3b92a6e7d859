"""Answer files: a JSONL row per prompt, appended as answers arrive and sorted at the end.

A row holds the prompt's ``line`` and ``prompt_sha256``, its ``id`` if present, and either ``completion`` or
``error``. The file is also the record of progress: a later owner completes only the missing prompts.

A job touches no file that it did not begin. Before it creates the file, it records that it is about to (the event
``inference.begun``), and it creates it only if nothing has that name.
"""

import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from crucible import Completion, FinishReason
from crucible.errors import Failure
from nsai_work.errors import InvalidJob, StoreFull
from nsai_work.inference.prompts import PromptRow
from nsai_work.input_files import invalid_file, unusable_file
from nsai_work.payloads import Inference

FIELD: Final = "payload.output"
_ROW_START: Final = b'{"line":'
COMPLETE: Final = frozenset(reason.value for reason in FinishReason if reason.is_complete)


@dataclass(slots=True)
class Tally:
    """Totals of an answer file. ``incomplete`` rows are among those that succeeded: an answer in them was cut,
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

    def count(self, row: dict[str, Any]) -> None:
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
    """Fields of a row that are read again. Strict: another program may have written the file."""

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


class AnswerFile:
    """An answer file, open for appending."""

    def __init__(self, path: Path, *, begun: bool) -> None:
        """Create the file; or open it, if an earlier attempt of the job has ``begun`` it. An incomplete last line,
        left by an owner that died while writing it, is truncated.

        Raises:
            FileUnusable: the file cannot be written.
            InvalidJob: the file exists and is not the job's.
        """
        self._path = path
        self._in_order = True
        self.tally = Tally()
        self.digests: dict[int, str] = {}
        try:
            self._file = _open(path, begun=begun)
        except FileExistsError:
            raise exists_already(path) from None
        except OSError as exc:
            raise unusable_file(
                FIELD, path, f"cannot be written ({exc.strerror})", "name a file in an existing folder"
            ) from exc
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        size = 0
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    if not _is_torn_answer(raw):
                        _parse(self._path, number, raw)
                    break
                self._index(_parse(self._path, number, raw))
                size += len(raw)
        os.ftruncate(self._file, size)

    def _index(self, row: dict[str, Any]) -> None:
        line = row["line"]
        if self.digests and line <= next(reversed(self.digests)):
            self._in_order = False
        if line not in self.digests:
            self.digests[line] = row["prompt_sha256"]
            self.tally.count(row)

    def has(self, row: PromptRow) -> bool:
        """Return whether a prompt is answered.

        Raises:
            InvalidJob: its line has the answer to another prompt, so the file belongs to another input.
        """
        found = self.digests.get(row.line)
        if found not in (None, row.digest):
            raise invalid_file(FIELD, self._path, "answers another prompt", "name another file", row.line)
        return found is not None

    def add(self, row: PromptRow, *, completion: Completion | None = None, error: Failure | None = None) -> None:
        """Append an answer. It is written to the operating system, but not synced, when this returns.

        Raises:
            StoreFull: the disk is full.
        """
        answer: dict[str, Any] = {"line": row.line, "prompt_sha256": row.digest}
        if row.id is not None:
            answer["id"] = row.id
        if completion is not None:
            answer["completion"] = completion.model_dump(mode="json", exclude_none=True)
        if error is not None:
            answer["error"] = error.model_dump(mode="json", exclude_none=True)
        _write(self._file, json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        self._index(answer)

    def sort(self) -> None:
        """Sort the rows by line and drop repeated lines, atomically."""
        if self._in_order:
            return
        # a new name, so that no other file is overwritten
        number, ordered = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        with self._path.open("rb") as source, os.fdopen(number, "wb") as target:
            os.fchmod(number, stat.S_IMODE(os.fstat(source.fileno()).st_mode))
            for _, (offset, size) in sorted(_extents(source).items()):
                source.seek(offset)
                target.write(source.read(size))
            target.flush()
            os.fsync(number)
        Path(ordered).replace(self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def refuse_existing(payload: Inference) -> None:
    """Raise InvalidJob if the output of a new job has the name of something that exists, such as its input."""
    assert payload.output is not None
    output = Path(payload.output)
    if payload.input is not None and _same_file(output, Path(payload.input.path)):
        raise invalid_file(FIELD, output, "is the input file", "name a new file")
    if os.path.lexists(output):
        raise exists_already(output)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def exists_already(path: Path) -> InvalidJob:
    """The error for an output that the job did not begin."""
    return invalid_file(FIELD, path, "exists already", "name a new file, or move this one away")


def _open(path: Path, *, begun: bool) -> int:
    # one O_APPEND write per row: even if a stale owner still writes, no row is torn or overwritten
    flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    if not (begun and os.path.lexists(path)):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    file = os.open(path, flags | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileExistsError
    return file


def _is_torn_answer(raw: bytes) -> bool:
    return raw.startswith(_ROW_START) or _ROW_START.startswith(raw)


def _write(file: int, data: bytes) -> None:
    written = os.write(file, data)
    if written != len(data):  # the disk is full; the next owner truncates the incomplete line
        raise StoreFull(f"only {written} of {len(data)} bytes of an answer were written")


def _extents(source: BinaryIO) -> dict[int, tuple[int, int]]:
    """Map each line to the offset and size of its first row."""
    extents: dict[int, tuple[int, int]] = {}
    offset = 0
    for raw in source:
        extents.setdefault(json.loads(raw)["line"], (offset, len(raw)))
        offset += len(raw)
    return extents


def _parse(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(raw)
        _StoredAnswer.model_validate(row)
    except (ValueError, RecursionError):
        raise invalid_file(FIELD, path, "is not an answer", "name a new file, or an answer file", number) from None
    return row
