"""Discovery of a server's features by requests without side effects."""

from typing import Final

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.types.server_capabilities import ServerCapabilities

_MISSING_CHECKPOINT: Final = "training_runs/no-such-run/checkpoints/weights/no-such-checkpoint"


async def probe_features(connection: Connection) -> None:
    """Record the features that are not known yet. Routes are probed with ids that do not exist.

    ``replays_seq_id`` is not probed: it needs a model. Raises CrucibleError.
    """
    known = connection.features
    capabilities = await connection.get("get_server_capabilities", ServerCapabilities)
    connection.memory.learn(models=capabilities.model_names)
    first_item = {"limit": 1, "offset": 0}
    if known.sessions is None:
        connection.memory.learn(sessions=await connection.has_route("GET", "sessions", params=first_item))
    if known.user_checkpoints is None:
        connection.memory.learn(
            user_checkpoints=await connection.has_route("GET", "checkpoints", params=first_item)
        )
    if known.training_runs is None:
        connection.memory.learn(training_runs=await connection.has_route("GET", "training_runs", params=first_item))
    if known.archive is None:
        connection.memory.learn(archive=await connection.has_route("GET", f"{_MISSING_CHECKPOINT}/archive"))
    if known.publish is None:
        connection.memory.learn(publish=await connection.has_route("POST", f"{_MISSING_CHECKPOINT}/publish"))
    if known.ttl is None:
        connection.memory.learn(ttl=await connection.has_route("PUT", f"{_MISSING_CHECKPOINT}/ttl"))
    if known.billing is None:
        connection.memory.learn(billing=await connection.has_route("GET", "billing/usage/events"))
    if known.streaming is None:
        connection.memory.learn(streaming=False)
    if known.compression is None:
        connection.memory.learn(compression=(await connection.client_config()).proto_compress_fwdbwd)
