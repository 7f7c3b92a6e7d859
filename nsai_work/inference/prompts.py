"""Prompt files: JSONL with a prompt per line.

A line is a ``crucible.Prompt``, ``{"messages": [...], "options": {...}}``, or the short form
``{"prompt": "text"}`` with the same other fields. The optional ``id`` is copied to the answer.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from crucible import Prompt
from crucible.values.json_types import json_problem
from nsai_work.data.source import open_data
from nsai_work.errors import InvalidJob
from nsai_work.files.input_files import BadRows, check_digest, invalid_file, open_input
from nsai_work.files.json_text import RepeatedField, decode_json
from nsai_work.files.lines import TOO_LONG, blocks_of, numbered_lines
from nsai_work.files.user_paths import expanded
from nsai_work.inference.score import score_problem
from nsai_work.payloads import DataSource

FIELD: Final = "payload.input.path"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt of a file. ``line`` counts from 1; ``digest`` is the SHA-256 of the line's bytes."""

    line: int
    digest: str
    prompt: Prompt
    id: JsonValue = None


def pin_prompts(
    source: DataSource, *, base: Path | None = None, require_model: bool = False, scored: bool = False
) -> DataSource:
    """Validate a prompt file and pin it: absolute path (relative to ``base``), content digest.

    Raises:
        InvalidJob: the file is missing or empty, or lines are not prompts; the error names all of them, with their
            fields. With ``require_model``, a prompt without a model is refused too: a service's first model may
            cost more; with ``scored`` one without an answer to score.
        DataChanged: the content does not match the source's digest.
    """
    path = ((base or Path.cwd()) / expanded(source.path)).absolute()
    if source.format == "text":
        raise InvalidJob("payload.input.format: 'text' is not allowed; prompt files are jsonl")
    placed, bad, rows = source.model_copy(update={"path": str(path)}), BadRows(FIELD, path), 0
    with open_data(FIELD, placed) as opened:
        for line, raw in _lines(path, opened.blocks()):
            rows += 1
            try:
                row = _row(path, line, raw)
                if require_model and row.prompt.options.model is None:
                    raise _refuse(path, "has no model", "set options.model", line)
                if scored and (problem := score_problem(row.prompt)) is not None:
                    raise _refuse(path, *problem, line)
            except InvalidJob as error:
                bad.add(error)
        bad.check(rows)
        if rows == 0:
            raise _refuse(path, "holds no prompt", "at least one is required")
    return placed.model_copy(update={"sha256": opened.sha256, "format": "jsonl"})


def check_unchanged(source: DataSource) -> str:
    """Return the SHA-256 of the file's content.

    Raises:
        InvalidJob: the file is missing or cannot be read.
        DataChanged: the content does not match the source's digest.
    """
    with open_input(FIELD, Path(source.path)) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    check_digest("payload.input", source, found)
    return found


def read_prompts(path: Path) -> Iterator[PromptRow]:
    """Yield the prompts of a file, in order. Empty lines are skipped.

    Raises:
        InvalidJob: the file is missing, or a line is not a prompt.
    """
    with open_input(FIELD, path) as file:
        for line, raw in _lines(path, blocks_of(file)):
            yield _row(path, line, raw)


def _lines(path: Path, blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, with their numbers. Raises InvalidJob at one that is too long."""
    for line, raw in numbered_lines(blocks):
        if raw is None:
            raise _refuse(path, TOO_LONG, "each line is one prompt", line)
        text = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
        if text.strip():
            yield line, text.strip()


def _row(path: Path, line: int, raw: bytes) -> PromptRow:
    try:
        row = decode_json(raw.decode())
    except RepeatedField as exc:
        raise _refuse(path, str(exc), "leave one of them out", line) from None
    except UnicodeDecodeError as exc:
        raise _refuse(path, f"is not UTF-8 at byte {exc.start} of the line", "save it as UTF-8", line) from None
    except (ValueError, RecursionError):
        raise _refuse(path, "is not JSON", "each line is one JSON object", line) from None
    if not isinstance(row, dict):
        raise _refuse(path, f"is a JSON {type(row).__name__}", "each line is one JSON object", line)
    prompt_id = row.pop("id", None)
    return PromptRow(line, hashlib.sha256(raw).hexdigest(), _prompt(path, line, row), prompt_id)


def _prompt(path: Path, line: int, row: dict[str, Any]) -> Prompt:
    if "prompt" in row:
        text = row.pop("prompt")
        if not isinstance(text, str) or not text or "messages" in row:
            raise _refuse(path, "prompt is not allowed here", "prompt is text, and replaces messages", line)
        row["messages"] = [{"role": "user", "content": text}]
    options = row.get("options")
    if isinstance(options, dict) and isinstance(options.get("model"), dict):
        raise _refuse(
            path,
            f"options.model: {json.dumps(options['model'])[:200]} is not a name",
            "the model of another job is that of a whole batch: set payload.model to {job: ID} and "
            "leave options.model out of the prompts; each model has a batch of its own",
            line,
        )
    found = json_problem(row)
    if found is not None:
        raise _refuse(path, f"{found[0] or 'the row'}: {found[1]}", "only plain JSON can be sent", line)
    try:
        prompt = Prompt.model_validate(row)
    except ValidationError as exc:
        error = InvalidJob.from_validation(exc, Prompt, prefix=f"{FIELD}: {path}, line {line}")
        raise InvalidJob(error.message, details={"field": FIELD, "line": line}) from None
    if not prompt.conversation():
        raise _refuse(
            path, "has neither messages nor prompt", 'give {"messages": [...]} or {"prompt": "..."}', line
        )
    return prompt


def _refuse(path: Path, state: str, allowed: str, line: int | None = None) -> InvalidJob:
    return invalid_file(FIELD, path, state, allowed, line)
