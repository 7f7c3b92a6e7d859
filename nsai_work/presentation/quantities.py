"""Numbers, ages and durations as people read them."""

from datetime import UTC, datetime


def count_text(count: int, noun: str) -> str:
    """Format a number of things, such as ``1 job`` and ``2 jobs``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ago(moment: datetime | None, now: datetime) -> str:
    """Format the time since ``moment`` in its largest whole unit, such as ``3 h ago``."""
    if moment is None:
        return "-"
    seconds = int((now - moment.astimezone(UTC)).total_seconds())
    if seconds < 0:
        return f"in {duration_text(-seconds)}"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def duration_text(seconds: float) -> str:
    """Format a duration in its two largest units, such as ``45 s``, ``2 min 05 s`` and ``3 h 20 min``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600:02} h"
