"""The route by which open-rl restores a saved state, and the field that its saves need for it.

A save holds the optimizer's state there only with ``include_optimizer``, which other servers would refuse.
"""

from contextlib import suppress
from typing import Any

from backends.tinkex.client.requests.connection import Connection
from crucible.errors import CrucibleError

STATE_ROUTE = "create_model_from_state"


async def optimizer_fields(connection: Connection) -> dict[str, Any]:
    """Return the fields beside those of the API with which a save holds the optimizer's state at this server."""
    return {"include_optimizer": True} if await _has_state_route(connection) else {}


async def _has_state_route(connection: Connection) -> bool:
    """Return whether the server restores by ``STATE_ROUTE``; asked once, where it describes no checkpoints."""
    known = connection.features.state_route
    if known is None:
        # a probe that fails says nothing, and the save goes on without it
        with suppress(CrucibleError):
            known = not await connection.has_route("POST", "weights_info")
            known = known and await connection.has_route("POST", STATE_ROUTE)
            connection.memory.learn(state_route=known)
    return bool(known)
