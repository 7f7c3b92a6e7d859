"""The service's mark of a corrupted run."""

from typing import TYPE_CHECKING

from crucible.errors import NotFound, RunGone, Unsupported

if TYPE_CHECKING:
    from backends.tinkex.client.rest.client import RestClient


async def is_flagged(rest: "RestClient", run_id: str) -> bool:
    """Return whether the service marks the run corrupted. A service without run records marks none."""
    try:
        return (await rest.get_training_run(run_id)).corrupted
    except (NotFound, RunGone, Unsupported):
        return False
