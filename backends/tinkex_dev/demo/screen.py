"""The demo's output: lines that look the same on a terminal, in a pipe and in a saved image."""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

IMAGE_WIDTH = 100
BAR = 28
PLAIN = "default"
INDENT, GAP = ("   ", ""), ("  ", "")
"""Unstyled parts of their own, because some SVG viewers drop the blanks that a text begins with."""


class Screen:
    """Writes to stdout, and records the output if it is to be saved as an image."""

    def __init__(self, *, recording: bool = False) -> None:
        self._console = Console(
            record=recording,
            highlight=False,
            width=IMAGE_WIDTH if recording or not sys.stdout.isatty() else None,
        )
        self._scene = 0

    def title(self, text: str) -> None:
        """The first line."""
        self._write((text, "bold"))

    def scene(self, text: str) -> None:
        """A numbered heading."""
        self._scene += 1
        self._console.print()
        self._write((str(self._scene), "bold cyan"), GAP, (text, "bold"))

    def line(self, mark: str, text: str, *, style: str = PLAIN, note: str = "") -> None:
        """Print an event."""
        self._write(INDENT, (f"{mark} {text}", style), GAP, (note, "dim"))

    def step(self, step: int, total: int, loss: float, first_loss: float, *, note: str = "") -> None:
        """A step, with its loss as a bar relative to the first loss."""
        share = min(1.0, loss / first_loss) if first_loss > 0 else 0.0
        filled = round(share * BAR)
        bar = ("━" * filled, "blue"), ("┄" * (BAR - filled), "bright_black")
        head = f"step {step:>{len(str(total))}}/{total}  loss {loss:6.4f}"
        self._write(INDENT, GAP, (head, PLAIN), GAP, *bar, GAP, (note, "yellow"))

    def pairs(self, rows: list[tuple[str, str]]) -> None:
        """Names and values in two columns."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._write(INDENT, (f"{name:<{width}}", "dim"), GAP, (value, PLAIN))

    def blank(self) -> None:
        """An empty line."""
        self._console.print()

    def _write(self, *parts: tuple[str, str]) -> None:
        text = Text.assemble(*parts)
        text.rstrip()
        self._console.print(text, soft_wrap=not self._console.record)

    def save(self, path: Path) -> None:
        """Save the output as a self-contained SVG image, without references to fonts."""
        image = self._console.export_svg(title="nsai-work demo")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"@font-face \{.*?\}", "", image, flags=re.DOTALL))
