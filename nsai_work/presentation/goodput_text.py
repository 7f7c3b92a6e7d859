"""The text of a job's goodput block: one line for ``show`` and the end of ``run``."""

from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from nsai_work.presentation.quantities import duration_text

_SHOWN_S: Final = 0.1
_TOTALS: Final = ("wall_s", "ratio", "productive_s")


def goodput_text(block: Mapping[str, JsonValue]) -> str | None:
    """Format the productive share and the other uses, the largest first; None before any time has passed."""
    numbers = {name: value for name, value in block.items() if isinstance(value, int | float)}
    if not numbers.get("wall_s"):
        return None
    other = {name: value for name, value in numbers.items() if name not in _TOTALS and value >= _SHOWN_S}
    parts = [
        f"{name.removesuffix('_s')} {_text(value)}"
        for name, value in sorted(other.items(), key=lambda item: -item[1])
    ]
    share = f"{100 * numbers.get('ratio', 0):.0f} % of {_text(numbers['wall_s'])}"
    return "; ".join([share, ", ".join(parts)]) if parts else share


def _text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration_text(seconds)
