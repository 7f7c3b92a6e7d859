"""Round distances of ticks on an axis."""

import math


def tick_size(span: float, count: int = 6) -> float:
    """Return 1, 2 or 5 times a power of ten, so that about ``count`` ticks cover ``span``."""
    raw = max(span, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
