"""In which order a recovery tries the checkpoints it knows."""

from collections.abc import Sequence

from crucible.errors import NoCheckpoint
from crucible.training import CheckpointRef


def in_order(strategy: str, candidates: Sequence[CheckpointRef]) -> tuple[CheckpointRef, ...]:
    """The candidates (newest first), the preferred one first; the next is taken when one turns out unusable.

    ``latest``: newest to oldest. ``best_loss``: lowest metric first, equal ones newest first, and those without a
    metric last. A path: that one alone.

    Raises:
        NoCheckpoint: there is no candidate, or none has that path.
    """
    if strategy == "latest":
        chosen = tuple(candidates)
    elif strategy == "best_loss":
        chosen = tuple(sorted(candidates, key=lambda ref: (ref.metric is None, ref.metric or 0.0)))
    else:
        chosen = tuple(ref for ref in candidates if ref.path == strategy)
    if not chosen:
        known = ", ".join(ref.path for ref in candidates[:5]) or "none"
        raise NoCheckpoint(f"no checkpoint for strategy {strategy!r}; known: {known}")
    return chosen
