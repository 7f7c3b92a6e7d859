"""Counts of what was read and rendered, and the report of them."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from nsai_work.data.problems import RowProblems
from nsai_work.files.input_files import MAX_SHOWN

_BINS: Final = 12


@dataclass(slots=True)
class Lines:
    """The lines of rows: the first of them, and the number of all."""

    first: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, line: int) -> None:
        """Count a row."""
        self.count += 1
        if len(self.first) < MAX_SHOWN:
            self.first.append(line)


@dataclass(slots=True)
class RowCounts:
    """Counts of what was read from a data file. ``lengths`` are those of the examples in tokens, before any cut."""

    bad: RowProblems
    rows: int = 0
    examples: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    cut: Lines = field(default_factory=Lines)
    skipped: Lines = field(default_factory=Lines)
    split: Lines = field(default_factory=Lines)
    tokens: int = 0
    trained_tokens: int = 0
    images: int = 0
    lengths: "array[int]" = field(default_factory=lambda: array("I"))

    def report(self, *, limit: int | None) -> dict[str, JsonValue]:
        """Return the counts as data; those of tokens only if the examples were rendered."""
        counts: dict[str, JsonValue] = {
            "formats": dict(self.formats),
            "rows": self.rows,
            "bad_rows": self.bad.count,
            "bad_row_problems": [*self.bad.texts],
            "unused_fields": dict(self.unused),
        }
        if limit is None:
            return counts
        return counts | {
            "examples": self.examples,
            "split_rows": self.split.count,
            "max_tokens": limit,
            "truncated_rows": self.cut.count,
            "skipped_rows": self.skipped.count,
            **({"images": self.images} if self.images else {}),
            "tokens_per_epoch": self.tokens,
            "trained_tokens_per_epoch": self.trained_tokens,
            "lengths": [*histogram(self.lengths)],
        }


def histogram(lengths: "array[int]") -> list[JsonValue]:
    """Return the distribution of lengths: at most ``_BINS`` bins of one width, from ``from`` up to ``to``."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // _BINS))
    counts = Counter((length - low) // width for length in lengths)
    return [
        {"from": low + place * width, "to": min(low + (place + 1) * width - 1, high), "examples": counts[place]}
        for place in range((high - low) // width + 1)
    ]
