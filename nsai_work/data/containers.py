"""Containers: the rows of JSON lines, a JSON array, plain text or Parquet, compressed with gzip or zstd or not.

A container is found by its content where that is certain, else by the file's name.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from crucible.http.decompression import BodyDecoder, InvalidBody
from nsai_work.data.problems import FileProblem, RowProblem, RowTooLong
from nsai_work.data.source import DataBytes
from nsai_work.files.json_text import DECODER, RepeatedField, decode_json
from nsai_work.files.lines import MAX_LINE_BYTES, TOO_LONG, numbered_lines

_BOM: Final = b"\xef\xbb\xbf"
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_JSON_NAMES: Final = (".jsonl", ".ndjson", ".json")
_TEXT_NAMES: Final = (".txt", ".md", ".text")
_COMPRESSED_NAMES: Final = {".gz": _GZIP, ".zst": _ZSTD}
_SPACE: Final = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it is in its file: bytes of JSON, a decoded object, a paragraph, or the problem of reading it.
    ``line`` is its first line, from 1; in Parquet its number."""

    line: int
    content: bytes | str | RowProblem | Any


def raw_rows(data: DataBytes, *, is_text: bool = False) -> Iterator[RawRow]:
    """Yield the rows of a data file, in which all that is not JSON is text with ``is_text``. Raises FileProblem."""
    blocks = _joined(data.blocks())
    name = data.path.name.lower()
    try:
        head = next(blocks, b"")
        if head.startswith(_PARQUET):
            return (yield from _parquet(data))
        for suffix, magic in _COMPRESSED_NAMES.items():
            if head.startswith(magic):
                blocks = _joined(_decompressed("gzip" if magic == _GZIP else "zstd", head, blocks))
                head = next(blocks, b"")
            elif name.endswith(suffix):
                raise FileProblem(f"is not compressed, as {suffix} in its name says", "rename or compress it")
            name = name.removesuffix(suffix)
        yield from _uncompressed(name, head, blocks, is_text=is_text)
    except InvalidBody as error:
        state = f"cannot be decompressed ({str(error).removeprefix('the body cannot be decompressed: ')})"
        raise FileProblem(state, "compress it again: nothing may be missing, nor follow") from None


def unread_rows(data: DataBytes, *, is_text: bool = False) -> Iterator[RawRow]:
    """Yield the rows of a data file for a look before it is hashed; none of Parquet, which is read whole first.
    Raises FileProblem."""
    if not data.file.peek(len(_PARQUET)).startswith(_PARQUET):
        yield from raw_rows(data, is_text=is_text)


def _joined(blocks: Iterator[bytes]) -> Iterator[bytes]:
    return (block for block in blocks if block)


def _decompressed(encoding: str, head: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    decoder = BodyDecoder(encoding, limit=None)
    yield from decoder.feed(head)
    for block in blocks:
        yield from decoder.feed(block)
    decoder.finish()


def _uncompressed(name: str, head: bytes, blocks: Iterable[bytes], *, is_text: bool) -> Iterator[RawRow]:
    head = head.removeprefix(_BOM)
    suffix, begin = Path(name).suffix, head.lstrip()[:1]
    if suffix == ".parquet":
        raise FileProblem("is not a Parquet file", "write it again")
    if suffix in _TEXT_NAMES or (suffix not in _JSON_NAMES and begin not in (b"{", b"[", b"")):
        # paragraphs of a table or an archive are not what anybody wants to train on
        if not (is_text or suffix in ("", *_TEXT_NAMES)):
            known = ", ".join((*_JSON_NAMES, ".parquet", *_COMPRESSED_NAMES, *_TEXT_NAMES))
            raise FileProblem(
                f"is not JSON, and {suffix} is none of the names of data files ({known})",
                "convert it to JSON lines; with format: text its paragraphs are trained",
            )
        return _paragraphs(numbered_lines(chain([head], blocks)))
    # a line of JSON is an object: an array on the first line is the whole file
    return (
        _array(head, blocks)
        if begin == b"[" and suffix != ".jsonl"
        else _json_lines(numbered_lines(chain([head], blocks)))
    )


def _json_lines(lines: Iterable[tuple[int, bytes | None]]) -> Iterator[RawRow]:
    for number, line in lines:
        if line is None:
            yield RawRow(number, RowTooLong(TOO_LONG, "each line is one row"))
        elif line and not line.isspace():
            yield RawRow(number, line)


def _paragraphs(lines: Iterable[tuple[int, bytes | None]]) -> Iterator[RawRow]:
    paragraph: list[bytes] = []
    first = size = 0
    for number, line in lines:
        if line is not None and not line.strip():
            if paragraph:
                yield _paragraph(first, paragraph)
            paragraph, size = [], 0
            continue
        first = first if size else number
        was_short = size <= MAX_LINE_BYTES
        size += MAX_LINE_BYTES + 1 if line is None else len(line) + 1
        if line is not None and size <= MAX_LINE_BYTES:
            paragraph.append(line)
        elif was_short:
            paragraph = []
            yield RawRow(first, RowTooLong(TOO_LONG, "paragraphs are separated by empty lines"))
    if paragraph:
        yield _paragraph(first, paragraph)


def _paragraph(line: int, lines: list[bytes]) -> RawRow:
    for number, part in enumerate(lines, start=line):
        try:
            part.decode()
        except UnicodeDecodeError as exc:
            return RawRow(number, RowProblem(f"is not UTF-8 at byte {exc.start} of the line", "save it as UTF-8"))
    return RawRow(line, b"\n".join(lines).decode().strip())


class _Text:
    """The decoded text of blocks, from ``place`` on. ``line`` is that of ``place``."""

    def __init__(self, head: bytes, blocks: Iterable[bytes]) -> None:
        self._blocks = chain([head], blocks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.place = 0
        self.line = 1
        self.ended = False

    @property
    def ahead(self) -> int:
        """The number of characters that are there."""
        return len(self.text) - self.place

    def extend(self, size: int) -> None:
        """Read on until ``size`` characters are there, or the file ends."""
        parts, length = [self.text[self.place :]], self.ahead
        self.place = 0
        while length < size and not self.ended:
            block = next(self._blocks, None)
            try:
                part = self._decoder.decode(block or b"", final=block is None)
            except UnicodeDecodeError:
                raise FileProblem("is not UTF-8", "save it as UTF-8", self.line) from None
            self.ended = block is None
            parts.append(part)
            length += len(part)
        self.text = "".join(parts)

    def skip_to(self, place: int) -> None:
        """Go on at a place of the text."""
        self.line += self.text.count("\n", self.place, place)
        self.place = place

    def next_mark(self) -> str:
        """Skip white space, and return the next character; empty at the end."""
        while True:
            space = _SPACE.match(self.text, self.place)
            self.skip_to(space.end() if space is not None else self.place)
            if self.ahead or self.ended:
                return self.text[self.place : self.place + 1]
            self.extend(1)


def _array(head: bytes, blocks: Iterable[bytes]) -> Iterator[RawRow]:
    text = _Text(head, blocks)
    text.next_mark()
    text.skip_to(text.place + 1)
    if text.next_mark() != "]":
        while True:
            text.next_mark()
            line = text.line
            yield RawRow(line, _element(text))
            mark = text.next_mark()
            if mark == "]":
                break
            if mark != ",":
                raise FileProblem("is not JSON", "rows of an array are separated by commas", text.line)
            text.skip_to(text.place + 1)
    text.skip_to(text.place + 1)
    if text.next_mark():
        raise FileProblem("has text behind its array", "a file is one array, or has a row in each line", text.line)


def _element(text: _Text) -> Any:
    while True:
        with suppress(ValueError, RecursionError):
            try:
                value, end = DECODER.raw_decode(text.text, text.place)
            except RepeatedField as error:
                value = RowProblem(str(error), "leave one of them out")
                _, end = json.JSONDecoder().raw_decode(text.text, text.place)
            if end < len(text.text) or text.ended:
                text.skip_to(end)
                return value
        if text.ended or text.ahead > MAX_LINE_BYTES:
            reason = TOO_LONG if not text.ended else "is not JSON"
            raise FileProblem(f"the row that begins here {reason}", "correct it", text.line)
        text.extend(max(2 * text.ahead, 64 * 1024))


def _parquet(data: DataBytes) -> Iterator[RawRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FileProblem(
            "is a Parquet file, which needs pyarrow, not installed here", 'pip install "nsai-work[parquet]"'
        ) from None
    data.exhaust()
    data.file.seek(0)
    number = 0
    try:
        for batch in parquet.ParquetFile(data.file).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(number, row)
    except pyarrow.ArrowException as error:
        raise FileProblem(f"is not a Parquet file that can be read ({error})", "write it again") from None


def decoded(raw: RawRow) -> Mapping[str, Any]:
    """Return the JSON object of a row. Raises RowProblem."""
    value = raw.content
    if isinstance(value, RowProblem):
        raise value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, bytes):
        try:
            value = decode_json(value.decode())
        except RepeatedField as exc:
            raise RowProblem(str(exc), "leave one of them out") from None
        except UnicodeDecodeError as exc:
            state = f"is not UTF-8 at byte {exc.start} of the line"
            raise RowProblem(state, "save it as UTF-8") from None
        except json.JSONDecodeError as exc:
            raise RowProblem(f"is not JSON ({exc.msg})", "each line is one JSON object") from None
        except (ValueError, RecursionError) as exc:
            reason = "nested too deep" if isinstance(exc, RecursionError) else "a number has too many digits"
            raise RowProblem(f"is not JSON ({reason})", "each line is one JSON object") from None
    if not isinstance(value, dict):
        raise RowProblem(f"is a JSON {type(value).__name__}", "a row is a JSON object")
    return value
