"""Sanitizes text for a terminal: escapes control characters, direction marks and lone surrogates."""

import re
from typing import Final

_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
MAX_LINE_LENGTH: Final = 1_000


def plain_text(text: str) -> str:
    """Escape whatever could move the cursor, change colours or reorder letters. Keeps newlines and tabs."""
    return _UNSAFE.sub(lambda match: ascii(match.group())[1:-1], text)


def plain_line(text: str) -> str:
    """As ``plain_text``, on a single line: newlines are escaped, tabs become spaces."""
    return plain_text(text).replace("\n", "\\n").replace("\t", " ")


def plain_json(text: str) -> str:
    """As ``plain_text`` for a JSON document, whose meaning stays: JSON has escapes of its own."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def shortened(line: str) -> str:
    """Cut a line to ``MAX_LINE_LENGTH`` characters, with a note of its full length."""
    return line if len(line) <= MAX_LINE_LENGTH else f"{line[:MAX_LINE_LENGTH]}... ({len(line):,} characters)"
