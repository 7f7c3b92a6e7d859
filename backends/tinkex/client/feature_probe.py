"""Asking a server what it has, with questions that change nothing."""

from typing import TYPE_CHECKING

from backends.tinkex.types.server_capabilities import ServerCapabilities
from backends.tinkex.wire.features import ServerFeatures

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient

_NOBODY = "training_runs/no-such-run/checkpoints/weights/no-such-checkpoint"


async def probe_features(service: "ServiceClient", base_model: str | None) -> ServerFeatures:
    """Fill in what is not known yet. Routes are asked for with things that do not exist. Raises CrucibleError."""
    connection = service.connection
    known = connection.features
    capabilities = await connection.get("get_server_capabilities", ServerCapabilities)
    connection.memory.learn(models=capabilities.model_names)
    one = {"limit": 1, "offset": 0}
    if known.sessions is None:
        connection.memory.learn(sessions=await connection.offers("GET", "sessions", params=one))
    if known.user_checkpoints is None:
        connection.memory.learn(user_checkpoints=await connection.offers("GET", "checkpoints", params=one))
    if known.training_runs is None:
        connection.memory.learn(training_runs=await connection.offers("GET", "training_runs", params=one))
    if known.archive is None:
        connection.memory.learn(archive=await connection.offers("GET", f"{_NOBODY}/archive"))
    if known.publish is None:
        connection.memory.learn(publish=await connection.offers("POST", f"{_NOBODY}/publish"))
    if known.ttl is None:
        connection.memory.learn(ttl=await connection.offers("PUT", f"{_NOBODY}/ttl"))
    if known.billing is None:
        connection.memory.learn(billing=await connection.offers("GET", "billing/usage/events"))
    if known.streaming is None:
        connection.memory.learn(streaming=False)
    if known.compression is None:
        connection.memory.learn(compression=(await connection.client_config()).proto_compress_fwdbwd)
    if connection.features.replays_seq_id is None and base_model is not None:
        await _probe_on_small_model(service, base_model)
    return connection.features


async def _probe_on_small_model(service: "ServiceClient", base_model: str) -> None:
    client = await service.create_lora_training_client_async(base_model, rank=1, seed=0)
    try:
        await client.probe_replay()
    finally:
        await client.unload()
