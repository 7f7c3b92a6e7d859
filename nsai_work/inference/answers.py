"""The file of answers: a JSONL row per prompt, appended as the answers come, and put in order at the end.

A row holds the prompt's ``line`` and ``prompt_sha256``, its ``id`` if it had one, and either ``completion`` or
``error``. The file itself is the record of what is done: a later owner asks only for what is missing.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import JsonValue

from crucible import Completion
from crucible.errors import Failure
from nsai_work.errors import InvalidJob, StoreFull
from nsai_work.inference.prompts import PromptRow


@dataclass(slots=True)
class Tally:
    """What a file of answers adds up to."""

    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def done(self) -> int:
        """Rows answered, well or not."""
        return self.succeeded + self.failed

    def count(self, row: dict[str, Any]) -> None:
        """Add a row."""
        if row.get("error") is not None:
            self.failed += 1
            return
        self.succeeded += 1
        usage = (row.get("completion") or {}).get("usage") or {}
        self.prompt_tokens += usage.get("prompt_tokens") or 0
        self.completion_tokens += usage.get("completion_tokens") or 0


class Answers:
    """The answers of one file, open for more."""

    def __init__(self, path: Path) -> None:
        """Open the file, made new if need be. A last line that was torn when its writer died is cut off.

        Raises:
            InvalidJob: the file cannot be written, or holds something else.
        """
        self._path = path
        self._in_order = True
        self.tally = Tally()
        self.digests: dict[int, str] = {}
        try:
            # appended in one write each: should a stale owner still write, no row is torn or written over
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as exc:
            raise _refuse(path, f"cannot be written ({exc.strerror})", "name a file in an existing folder") from exc
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        whole = 0
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                self._enter(_parse(self._path, number, raw))
                whole += len(raw)
        os.ftruncate(self._file, whole)

    def _enter(self, row: dict[str, Any]) -> None:
        line = row["line"]
        if self.digests and line <= next(reversed(self.digests)):
            self._in_order = False
        if line not in self.digests:
            self.digests[line] = row["prompt_sha256"]
            self.tally.count(row)

    def has(self, row: PromptRow) -> bool:
        """Whether a prompt is answered.

        Raises:
            InvalidJob: its line is, but with another prompt: the file belongs to another input.
        """
        found = self.digests.get(row.line)
        if found not in (None, row.digest):
            raise _refuse(self._path, f"answers another prompt at line {row.line}", "name another file")
        return found is not None

    def add(self, row: PromptRow, *, completion: Completion | None = None, error: Failure | None = None) -> None:
        """Append an answer; it is with the operating system when this returns."""
        told: dict[str, Any] = {"line": row.line, "prompt_sha256": row.digest}
        if row.id is not None:
            told["id"] = row.id
        if completion is not None:
            told["completion"] = completion.model_dump(mode="json", exclude_none=True)
        if error is not None:
            told["error"] = error.model_dump(mode="json", exclude_none=True)
        _write(self._file, json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        self._enter(told)

    def put_in_order(self) -> None:
        """Sort the rows by line, each line once: whole or not at all."""
        if self._in_order:
            return
        ordered = self._path.with_name(f"{self._path.name}.ordered")
        with self._path.open("rb") as source, ordered.open("wb") as target:
            for _, (offset, size) in sorted(_places(source).items()):
                source.seek(offset)
                target.write(source.read(size))
            target.flush()
            os.fsync(target.fileno())
        ordered.replace(self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _write(file: int, data: bytes) -> None:
    written = os.write(file, data)
    if written != len(data):  # the disk is full: what is there is a torn line, which the next owner cuts off
        raise StoreFull(f"only {written} of {len(data)} bytes of an answer could be written")


def _places(source: BinaryIO) -> dict[int, tuple[int, int]]:
    """Where the first row of each line stands, and its size."""
    places: dict[int, tuple[int, int]] = {}
    offset = 0
    for raw in source:
        places.setdefault(json.loads(raw)["line"], (offset, len(raw)))
        offset += len(raw)
    return places


def _parse(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row: JsonValue = json.loads(raw)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("line"), int) or "prompt_sha256" not in row:
        raise _refuse(path, f"holds something else at line {number}", "name a new file, or one of answers")
    return row


def _refuse(path: Path, state: str, allowed: str) -> InvalidJob:
    return InvalidJob(
        f"payload.output: {path} {state}; {allowed}", details={"field": "payload.output", "path": str(path)}
    )
