"""A file of prompts: JSONL, one prompt a line.

A line is a prompt as ``crucible.Prompt`` has it, ``{"messages": [...], "options": {...}}``, or in short
``{"prompt": "text"}`` with the same other fields. ``id`` is optional and comes back with the answer.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError

from crucible import Prompt
from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.payloads import DataSource
from nsai_work.user_paths import expanded


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt of a file. ``line`` counts from 1; ``digest`` is that of the line's bytes."""

    line: int
    digest: str
    prompt: Prompt
    id: JsonValue = None


def pin_prompts(source: DataSource, *, base: Path | None = None) -> DataSource:
    """Check every line and fix the content: the path made absolute (from ``base``), the digest filled in.

    Raises:
        InvalidJob: the file is missing, empty, or a line is no prompt; names the line and the field.
        DataChanged: the source names a digest, and the content has another.
    """
    path = ((base or Path.cwd()) / expanded(source.path)).absolute()
    if source.format == "text":
        raise InvalidJob("payload.input.format: 'text' is not allowed; prompts come as jsonl")
    if sum(1 for _ in read_prompts(path)) == 0:
        raise _refuse(path, "holds no prompt", "at least one is needed")
    digest = check_unchanged(source.model_copy(update={"path": str(path)}))
    return source.model_copy(update={"path": str(path), "sha256": digest, "format": "jsonl"})


def check_unchanged(source: DataSource) -> str:
    """The digest of the file's content.

    Raises:
        InvalidJob: the file is missing or cannot be read.
        DataChanged: the source names another digest.
    """
    try:
        with Path(source.path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise _refuse(Path(source.path), f"cannot be read ({exc.strerror})", "name a readable file") from exc
    if source.sha256 not in (None, found):
        raise DataChanged(
            f"payload.input: {source.path} is not what it was when the job was submitted; restore the file, or "
            "submit a new job",
            details={"field": "payload.input.sha256", "path": source.path, "found": found},
        )
    return found


def read_prompts(path: Path) -> Iterator[PromptRow]:
    """The prompts of a file, in order; empty lines are passed over.

    Raises:
        InvalidJob: as ``pin_prompts``.
    """
    try:
        if not path.is_file():
            raise _refuse(path, "is a directory" if path.is_dir() else "does not exist", "name an existing file")
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if text.strip():
                    yield _row(path, line, text.strip())
    except OSError as exc:
        raise _refuse(path, f"cannot be read ({exc.strerror})", "name a readable file") from exc


def _row(path: Path, line: int, raw: bytes) -> PromptRow:
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as exc:
        raise _refuse(path, f"is not UTF-8 at byte {exc.start} of the line", "save it as UTF-8", line) from None
    except (ValueError, RecursionError):
        raise _refuse(path, "is not JSON", "each line is one JSON object", line) from None
    if not isinstance(row, dict):
        raise _refuse(path, f"is a JSON {type(row).__name__}", "each line is one JSON object", line)
    name = row.pop("id", None)
    return PromptRow(line, hashlib.sha256(raw).hexdigest(), _prompt(path, line, row), name)


def _prompt(path: Path, line: int, row: dict[str, Any]) -> Prompt:
    if "prompt" in row:
        text = row.pop("prompt")
        if not isinstance(text, str) or not text or "messages" in row:
            raise _refuse(path, "prompt is not allowed so", "prompt is text, and stands instead of messages", line)
        row["messages"] = [{"role": "user", "content": text}]
    try:
        prompt = Prompt.model_validate(row)
    except ValidationError as exc:
        complaints = InvalidJob.from_validation(exc, prefix=f"payload.input.path: {path}, line {line}")
        raise InvalidJob(complaints.message, details={"field": "payload.input.path", "line": line}) from None
    if not _has_only_characters(prompt):
        raise _refuse(path, "holds a lone surrogate", "texts are Unicode characters", line)
    if not prompt.conversation():
        raise _refuse(
            path, "has neither messages nor prompt", 'give {"messages": [...]} or {"prompt": "..."}', line
        )
    return prompt


def _has_only_characters(prompt: Prompt) -> bool:
    try:
        prompt.model_dump_json()
    except PydanticSerializationError:
        return False
    return True


def _refuse(path: Path, state: str, allowed: str, line: int | None = None) -> InvalidJob:
    place = f"{path}" if line is None else f"{path}, line {line}"
    return InvalidJob(
        f"payload.input.path: {place}: {state}; {allowed}",
        details={"field": "payload.input.path", "path": str(path), "line": line},
    )
