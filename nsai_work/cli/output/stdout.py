"""Writes data to stdout: JSON for scripts, tables and labeled values for people."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer
from pydantic import JsonValue
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from crucible.rendering.plain_text import plain_json, plain_line, plain_text

MIN_LAST_COLUMN = 10


@contextmanager
def others_on_stderr() -> Iterator[None]:
    """Send to stderr what functions of users and other packages print: stdout has the data of the command alone."""
    with redirect_stdout(sys.stderr):
        yield


def write_json(value: JsonValue, *, indent: int | None = 2) -> None:
    """Write a JSON document to stdout and flush; ``indent=None`` writes it on one line."""
    ascii_only = (sys.stdout.encoding or "").lower() != "utf-8"
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=ascii_only)
    sys.stdout.write(plain_json(text) + "\n")
    sys.stdout.flush()


def write_line(text: str = "", *, err: bool = False) -> None:
    """Write text of one or more lines to stdout, or to stderr, with whatever acts on a terminal escaped."""
    typer.echo(plain_text(text), err=err)


def write_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    if_empty: str,
    width: int | None = None,
    styles: Mapping[str, str] | None = None,
) -> None:
    """Write a table to stdout, or ``if_empty`` if there are no rows.

    Cells are neither cut nor wrapped, so that they can be copied: a terminal wraps lines that are too long. With
    ``width``, the last column is cut so that a line fits. ``styles`` are those of the second column's cells, by
    their text, on a terminal.
    """
    console = stdout_console()
    # a heading may be the name of a metric
    headings = [plain_line(heading) for heading in headings]
    cells = [[plain_line(_cell(value)) for value in row] for row in rows]
    if not cells:
        console.print(Text(if_empty))
        return
    if width is not None:
        *before, _ = zip(headings, *cells, strict=True)
        left = max(width - sum(max(map(cell_len, column)) + 2 for column in before), MIN_LAST_COLUMN)
        cells = [[*row[:-1], shortened_to(row[-1], left)] for row in cells]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(cell_len, (head, *column))) for head, column in zip(headings, columns, strict=True)]
    numeric = [all(map(_is_number, column)) for column in columns]
    console.print(Text(_format_row(headings, widths, numeric), style="bold"), soft_wrap=True)
    for row in cells:
        line = Text(_format_row(row, widths, numeric))
        if styles is not None and row[1] in styles:
            line.stylize(styles[row[1]], widths[0] + 2, widths[0] + 2 + len(row[1]))
        console.print(line, soft_wrap=True)


def shortened_to(text: str, width: int) -> str:
    """Cut a text to a number of terminal columns; a cut one ends with an ellipsis."""
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain


def _format_row(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    parts = []
    for text, width, right in zip(cells, widths, numeric, strict=True):
        gap = " " * (width - cell_len(text))
        parts.append(gap + text if right else text + gap)
    return "  ".join(parts).rstrip()


def write_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Write labeled values to stdout, one per line, without those that are empty."""
    shown = [
        (plain_line(name), plain_text(_cell(value)))
        for name, value in fields
        if value not in (None, "", (), [], {})
    ]
    width = max((len(name) for name, _ in shown), default=0)
    console = stdout_console()
    for name, value in shown:
        console.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", value), soft_wrap=True)


def stdout_console() -> Console:
    """Return a rich console on stdout that interprets no markup and no emoji codes."""
    # the ID of a run may contain :train:
    return Console(highlight=False, markup=False, emoji=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_cell(each)}" for name, each in value.items()) or "-"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace("e-", "", 1).isdigit() or text == "-"
