"""A drawing of curves as an SVG document of its own, with its colours and a legend."""

from collections.abc import Iterator
from html import escape
from typing import Final

from nsai_work.page.drawing.loss_curve import CurveDrawing

COLORS: Final = ("#0b5cad", "#b3408f", "#b7791f", "#157f3c", "#c81e1e", "#5b4bc4", "#0f8a8a", "#616e7c")
_LINE_HEIGHT: Final = 18
_INK, _GRID = "#1f2933", "#e4e7eb"


def svg_document(drawing: CurveDrawing) -> str:
    """The document. It loads nothing, and shows the same in every viewer."""
    width, height = drawing.width, drawing.height + _LINE_HEIGHT * len(drawing.lines) + 8
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<g font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">',
        *_parts(drawing),
        "</g></svg>\n",
    ])  # fmt: skip


def _parts(drawing: CurveDrawing) -> Iterator[str]:
    for tick in drawing.y_ticks:
        yield f'<path d="M{drawing.left},{tick.at} H{drawing.right}" stroke="{_GRID}"/>'
        yield f'<text x="{drawing.left - 8}" y="{tick.at + 4}" text-anchor="end">{escape(tick.label)}</text>'
    for tick in drawing.x_ticks:
        yield f'<text x="{tick.at}" y="{drawing.bottom + 18}" text-anchor="middle">{escape(tick.label)}</text>'
    if drawing.fall is not None:
        yield f'<text x="{drawing.fall.x}" y="{drawing.fall.y}">{escape(drawing.fall.title)}</text>'
    for index, line in enumerate(drawing.lines):
        color = COLORS[index % len(COLORS)]
        yield f'<path d="{line.path}" fill="none" stroke="{color}" stroke-width="1.6" stroke-linecap="round"/>'
        y = drawing.height + _LINE_HEIGHT * (index + 1)
        yield f'<path d="M{drawing.left},{y - 4} h18" stroke="{color}" stroke-width="3"/>'
        yield f'<text x="{drawing.left + 26}" y="{y}">{escape(line.label)}</text>'
