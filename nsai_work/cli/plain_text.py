"""Text of others on a person's terminal: nothing in it may move the cursor, change colours or turn the order of
letters around."""

import re
from typing import Final

_UNSHOWN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
LONGEST_LINE: Final = 1_000


def plain_text(text: str) -> str:
    """The text with control characters, direction marks and lone surrogates as escapes; lines and tabs stay."""
    return _UNSHOWN.sub(lambda found: ascii(found.group())[1:-1], text)


def plain_line(text: str) -> str:
    """As ``plain_text``, on one line."""
    return plain_text(text).replace("\n", "\\n").replace("\t", " ")


def shortened(line: str) -> str:
    """The line, or its beginning if it is longer than anybody reads."""
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}... ({len(line):,} characters)"
