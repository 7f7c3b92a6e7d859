"""Training data files: parsed and validated line by line, pinned by digest, shared by all runs of a process.

A JSONL file holds an example per line, ``{"messages": [{"role": ..., "content": ...}, ...]}`` or ``{"text": ...}``.
A line with other fields is refused, since they would change nothing. A text file holds an example per paragraph.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

from crucible.suggestions import known_names
from nsai_work.errors import InvalidJob
from nsai_work.input_files import BadRows, check_digest, invalid_file, open_input
from nsai_work.payloads import DataSource
from nsai_work.user_paths import expanded

FIELD: Final = "payload.data.path"
ROW_FIELDS: Final = ("messages", "text")
LATER: Final = ("tools", "parallel_tool_calls", "prompt", "completion", "chosen", "rejected", "weight")
"""Fields of a row that are known in the field, and not supported yet."""

ROLES: Final = ("system", "user", "assistant", "tool")

Conversation: TypeAlias = tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A training example: a conversation or a plain text. ``line`` is its first line in the file, from 1."""

    content: Conversation | str
    line: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Dataset:
    """All examples of a file, in file order."""

    path: str
    sha256: str
    format: str
    examples: tuple[Example, ...]


# runs of a process that train on the same content share a copy, which is dropped with the last of them
_shared: WeakValueDictionary[tuple[str, str], Dataset] = WeakValueDictionary()
_reading = threading.Lock()


def pin_data(source: DataSource, *, base: Path | None = None) -> DataSource:
    """Validate the data and pin it: absolute path (relative to ``base``), detected format, content digest.

    Raises:
        InvalidJob: the file is missing, empty or malformed; the error names the line and the field.
        DataChanged: the content does not match the source's digest.
    """
    path = (base or Path.cwd()) / expanded(source.path)
    dataset = load_data(source.model_copy(update={"path": str(path)}))
    return source.model_copy(
        update={"path": str(path.absolute()), "sha256": dataset.sha256, "format": dataset.format}
    )


def load_data(source: DataSource) -> Dataset:
    """Load the data of a source; blocking. Pinned content that another run of this process uses is not read again.

    Raises:
        InvalidJob, DataChanged: as ``pin_data``.
    """
    with _reading:
        if source.sha256 is not None and source.format != "auto":
            cached = _shared.get((source.sha256, source.format))
            if cached is not None:
                return cached
        dataset = _read(source)
        return _shared.setdefault((dataset.sha256, dataset.format), dataset)


def _read(source: DataSource) -> Dataset:
    path = Path(source.path)
    digest = hashlib.sha256()
    with open_input(FIELD, path) as file:
        kind = source.format if source.format != "auto" else _detect(path, file.readline())
        file.seek(0)
        lines = _hashed_lines(file, digest)
        parse = _conversations if kind == "jsonl" else _paragraphs
        try:
            examples = tuple(parse(path, lines))
        except InvalidJob:
            # submit accepted the pinned content, so a file that is invalid now has changed: report that instead
            _exhaust(lines)
            check_digest("payload.data", source, digest.hexdigest())
            raise
    check_digest("payload.data", source, digest.hexdigest())
    if not examples:
        raise _refuse(path, "holds no example", "at least one is required")
    return Dataset(str(path), digest.hexdigest(), kind, examples)


def _hashed_lines(file: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, start=1):
        digest.update(line)
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _exhaust(lines: Iterator[tuple[int, bytes]]) -> None:
    for _ in lines:
        pass


def _detect(path: Path, first_line: bytes) -> str:
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if path.suffix.lower() in (".txt", ".md", ".text"):
        return "text"
    return "jsonl" if first_line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "text"


def _paragraphs(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[Example]:
    paragraph: list[str] = []
    first_line = 1
    for number, raw in lines:
        text = _decode(path, number, raw)
        if text.strip():
            first_line = first_line if paragraph else number
            paragraph.append(text)
        elif paragraph:
            yield Example("".join(paragraph).strip(), first_line)
            paragraph = []
    if paragraph:
        yield Example("".join(paragraph).strip(), first_line)


def _conversations(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[Example]:
    """All examples. Raises InvalidJob for all bad lines together, after the last one."""
    bad, rows = BadRows(FIELD, path), 0
    for number, raw in lines:
        if not raw.strip():
            continue
        rows += 1
        try:
            yield Example(_content(path, number, _decode(path, number, raw)), number)
        except InvalidJob as error:
            bad.add(error)
    bad.check(rows)


def _decode(path: Path, line: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise _refuse(path, f"is not UTF-8 at byte {exc.start} of the line", "save it as UTF-8", line) from None


def _content(path: Path, line: int, text: str) -> Conversation | str:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as exc:
        raise _refuse(path, f"is not JSON ({exc.msg})", "each line is one JSON object", line) from None
    except (ValueError, RecursionError) as exc:
        reason = "nested too deep" if isinstance(exc, RecursionError) else "a number has too many digits"
        raise _refuse(path, f"is not JSON ({reason})", "each line is one JSON object", line) from None
    if not isinstance(row, dict):
        raise _refuse(path, f"is a JSON {type(row).__name__}", "each line is one JSON object", line)
    unknown = sorted(row.keys() - ROW_FIELDS)
    if unknown:
        known = "not supported yet" if unknown[0] in LATER else known_names(unknown[0], ROW_FIELDS)
        raise _refuse(path, f"{ascii(unknown[0])[1:-1]:.60} is an unknown field", known, line, unknown[0])
    if ("messages" in row) == ("text" in row):
        state = "has both messages and text" if "messages" in row else "has neither messages nor text"
        raise _refuse(path, state, 'give {"messages": [...]} or {"text": "..."}', line)
    if "text" in row:
        return _filled(path, line, "text", row["text"])
    return _messages(path, line, row["messages"])


def _messages(path: Path, line: int, messages: Any) -> Conversation:
    if not isinstance(messages, list) or not messages:
        state = "messages is empty" if messages == [] else f"messages is a {type(messages).__name__}"
        raise _refuse(path, state, "messages is a list with at least one message", line, "messages")
    conversation = tuple(_message(path, line, index, message) for index, message in enumerate(messages))
    if not any(message["role"] == "assistant" for message in conversation):
        raise _refuse(path, "has no assistant message", "an example needs one to learn from", line, "messages")
    return conversation


def _message(path: Path, line: int, index: int, message: Any) -> dict[str, str]:
    field = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _refuse(path, f"{field} is a {type(message).__name__}", "a message is an object", line, field)
    unknown = sorted(set(message) - {"role", "content"})
    if unknown:
        help_text = known_names(unknown[0], ("role", "content"), are="a message has")
        raise _refuse(path, f"{field}.{ascii(unknown[0])[1:-1]:.60} is unknown", help_text, line, field)
    if message.get("role") not in ROLES:
        shown = f"{field}.role is {message.get('role')!r}" if "role" in message else f"{field}.role is missing"
        raise _refuse(path, shown, f"allowed are {', '.join(ROLES)}", line, f"{field}.role")
    return {"role": message["role"], "content": _filled(path, line, f"{field}.content", message.get("content"))}


def _filled(path: Path, line: int, field: str, value: Any) -> str:
    if not isinstance(value, str):
        state = f"{field} is missing" if value is None else f"{field} is a {type(value).__name__}"
        raise _refuse(path, state, f"{field} is text", line, field)
    if not value:
        raise _refuse(path, f"{field} is empty", f"{field} is non-empty text", line, field)
    if not value.isascii():
        _require_characters(path, line, field, value)
    return value


def _require_characters(path: Path, line: int, field: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        state = f"{field} holds a lone surrogate ({ascii(value[exc.start])[1:-1]})"
        raise _refuse(path, state, "text must be valid Unicode", line, field) from None


def _refuse(path: Path, state: str, allowed: str, line: int | None = None, field: str | None = None) -> InvalidJob:
    return invalid_file(FIELD, path, state, allowed, line, data_field=field)
