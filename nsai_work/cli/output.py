"""Data on stdout: JSON for scripts, tables for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, JsonValue
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from nsai_work.cli.plain_text import plain_line, plain_text


def write_json(value: JsonValue, *, indent: int | None = 2) -> None:
    """One JSON document on stdout; ``indent=None`` puts it on one line, flushed, for a stream of them."""
    ascii_only = (sys.stdout.encoding or "").lower() != "utf-8"
    sys.stdout.write(json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=ascii_only) + "\n")
    sys.stdout.flush()


def as_json(record: BaseModel) -> dict[str, JsonValue]:
    """A record as JSON data."""
    data: dict[str, JsonValue] = record.model_dump(mode="json")
    return data


def write_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, nothing: str) -> None:
    """A plain table on stdout; ``nothing`` is said when there are no rows.

    Nothing is cut or folded: a terminal wraps what is too wide, and what people copy stays in one piece.
    """
    console = stdout_console()
    cells = [[plain_line(_cell(value)) for value in row] for row in rows]
    if not cells:
        console.print(Text(nothing))
        return
    columns = list(zip(*cells, strict=True))
    widths = [max(map(cell_len, (head, *column))) for head, column in zip(headings, columns, strict=True)]
    numeric = [all(map(_is_number, column)) for column in columns]
    console.print(Text(_row(headings, widths, numeric), style="bold"), soft_wrap=True)
    for row in cells:
        console.print(Text(_row(row, widths, numeric)), soft_wrap=True)


def _row(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    parts = []
    for text, width, right in zip(cells, widths, numeric, strict=True):
        gap = " " * (width - cell_len(text))
        parts.append(gap + text if right else text + gap)
    return "  ".join(parts).rstrip()


def write_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Name and value a line; what has no value is left out."""
    shown = [(name, plain_text(_cell(value))) for name, value in pairs if value not in (None, "", (), [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    console = stdout_console()
    for name, value in shown:
        console.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", value), soft_wrap=True)


def stdout_console() -> Console:
    """A console on stdout that shows texts as they are."""
    # a run's id may hold :train:, which is no emoji
    return Console(highlight=False, markup=False, emoji=False)


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    if moment is None:
        return "-"
    seconds = int((now - moment.astimezone(UTC)).total_seconds())
    if seconds < 0:
        return f"in {-seconds} s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace("e-", "", 1).isdigit() or text == "-"
