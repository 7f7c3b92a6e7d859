"""Redaction of credentials in text that comes from other programs.

A service may echo the key that it was sent: in an error, as JSON, URL-encoded, cut or split by quotes. The reader
of a key calls ``remember_secret``; from then on every ``CrucibleError`` and every log line hides it, in any of
these forms. Secrets stay in this process.
"""

import base64
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from pydantic import JsonValue

from crucible.values.json_types import to_json

HIDDEN: Final = "(hidden)"
MIN_SECRET_CHARS: Final = 6
"""Shorter values are not hidden: they occur in ordinary words."""
_PIECE_CHARS: Final = 8
"""A piece of a secret of this length is hidden too, so that a cut or split one does not show."""

_ENCODED: Final = re.compile(
    r"%(?:25)*(?P<percent>[0-9a-fA-F]{2})"
    r"|\\+u(?P<unicode>[0-9a-fA-F]{4})"
    r"|\\+x(?P<hex>[0-9a-fA-F]{2})"
    r"|&#x(?P<entity_hex>[0-9a-fA-F]{1,4});"
    r"|&#(?P<entity>[0-9]{1,5});"
    r"|(?P<quote>&quot;|&apos;)"
    r"|(?P<char>.)",
    re.DOTALL,
)
_MARKS: Final = re.compile(r"[%\\&]")
"""The characters with which encoded ones begin."""
_DROPPED: Final = re.compile(r"[\s\"'`\\,\u200b-\u200d\ufeff]")

_MAX_REMEMBERED: Final = 200
"""The length of a text up to which it is remembered that it has no secret: log lines repeat their words."""

_secrets: set[str] = set()
_pieces: dict[int, set[str]] = {}


def remember_secret(*values: str | None) -> None:
    """Hide these values in all later errors and log lines of this process."""
    for value in values:
        if value is None or value in _secrets:
            continue
        _secrets.add(value)
        for form in _forms(value):
            plain = "".join(char for char, _, _ in _as_written(form))
            size = min(_PIECE_CHARS, len(plain))
            if size >= MIN_SECRET_CHARS:
                found = _pieces.setdefault(size, set())
                found.update(plain[start : start + size] for start in range(len(plain) - size + 1))
    _is_known_free.cache_clear()


def redacted(text: str) -> str:
    """The text without remembered secrets, whole or in pieces, in any encoding."""
    if not _pieces or (_is_known_free(text) if len(text) <= _MAX_REMEMBERED else _is_free(text)):
        return text
    # as decoded text too: in "%004", a key that begins with 0 would otherwise not be seen, or not in "%30"
    spans = [*_spans(_as_written(text)), *_spans(_decoded_chars(text))]
    return _without(text, spans) if spans else text


@lru_cache(maxsize=512)
def _is_known_free(text: str) -> bool:
    return _is_free(text)


def _is_free(text: str) -> bool:
    """True for most texts without a secret, at a fraction of the cost of looking for encoded ones."""
    if len(text) < min(_pieces):
        return True
    if not text.isascii() or _MARKS.search(text):
        return False
    plain = _DROPPED.sub("", text).lower()
    return all(
        pieces.isdisjoint([plain[start : start + size] for start in range(len(plain) - size + 1)])
        for size, pieces in _pieces.items()
    )


def has_secrets() -> bool:
    """Return whether this process remembers a secret."""
    return bool(_pieces)


def redacted_json(value: JsonValue) -> JsonValue:
    """A JSON value whose texts are ``redacted``."""
    return _redacted_json(to_json(value)) if _pieces else value


def _redacted_json(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted(name): _redacted_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted_json(item) for item in value]
    return value


def _forms(secret: str) -> list[str]:
    data = secret.encode(errors="surrogatepass")
    # base64 of a text that contains the secret has one of three forms, by the offset; the ends depend on the rest
    shifted = [base64.b64encode(b"\0" * offset + data).decode()[-(-offset * 4 // 3) :] for offset in range(3)]
    return [secret, data.hex(), *(text.rstrip("=")[:-1] for text in shifted)]


Char: TypeAlias = tuple[str, int, int]
"""A character in the form by which a secret is compared, with its place in the text."""


def _as_written(text: str) -> list[Char]:
    return [(char.lower()[:1], at, at + 1) for at, char in enumerate(text) if not _DROPPED.match(char)]


def _decoded_chars(text: str) -> list[Char]:
    found = []
    for match in _ENCODED.finditer(text):
        char = _decoded(match)
        if not _DROPPED.match(char):
            found.append((char.lower()[:1], match.start(), match.end()))
    return found


def _spans(chars: list[Char]) -> Iterator[tuple[int, int]]:
    plain = "".join(char for char, _, _ in chars)
    for size, pieces in _pieces.items():
        for start in range(len(plain) - size + 1):
            if plain[start : start + size] in pieces:
                yield chars[start][1], chars[start + size - 1][2]


def _decoded(match: re.Match[str]) -> str:
    kind = match.lastgroup
    code = match[kind] if kind else ""
    if kind == "char":
        return code
    if kind == "quote":
        return '"'
    return chr(int(code, 10 if kind == "entity" else 16))


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    shown_to = 0
    for start, end in sorted(spans):
        if start > shown_to or not parts:
            parts += [text[shown_to:start], HIDDEN]
        shown_to = max(shown_to, end)
    return "".join([*parts, text[shown_to:]])
