"""Text that spells a control token of a tokenizer, such as ``<|im_end|>`` in a user's message.

A tokenizer would encode it as that token, so that a text could end its own turn. It is replaced by a mark before
the template is rendered, and encoded as ordinary text afterwards.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

_OPEN, _CLOSE = "\uf8f0", "\uf8f1"
_MARK: Final = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class ControlText:
    """The control tokens of a tokenizer as texts, and the texts found so far in one conversation."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # the characters of a mark are marked too, so that no text is taken for one
        spelled = [*sorted({token for token in tokens if len(token) > 1}, key=len, reverse=True), _OPEN, _CLOSE]
        self._pattern = re.compile("|".join(map(re.escape, spelled)))
        self._found: list[str] = []

    def marked(self, value: Any) -> Any:
        """Replace control text in all texts of a JSON value, keys left alone."""
        if isinstance(value, str):
            return self._pattern.sub(self._mark, value)
        if isinstance(value, Mapping):
            return {key: self.marked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(item) for item in value]
        return value

    def unmarked(self, text: str) -> str:
        """Return a rendered text with the original texts in the places of their marks."""
        return _MARK.sub(lambda mark: self._found[int(mark[1])], text)

    def pieces(self, text: str) -> Iterator[tuple[int, str, bool]]:
        """Split a rendered text at its marks: the begin of each piece, the text to encode, and whether it is
        control text."""
        begin = 0
        for mark in _MARK.finditer(text):
            if mark.start() > begin:
                yield begin, text[begin : mark.start()], False
            yield mark.start(), self._found[int(mark[1])], True
            begin = mark.end()
        if begin < len(text):
            yield begin, text[begin:], False

    def _mark(self, match: "re.Match[str]") -> str:
        self._found.append(match[0])
        return f"{_OPEN}{len(self._found) - 1}{_CLOSE}"


def encoded_apart(text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Encode control text as ordinary text: in two pieces, neither of which spells the token."""
    return [*encode(text[:1]), *(encode(text[1:]) if len(text) > 1 else [])]
