"""A new run at the service."""

from typing import TYPE_CHECKING

from crucible.training import RunSpec

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training.client import TrainingClient


async def new_run(service: "ServiceClient", spec: RunSpec) -> "TrainingClient":
    """Start a run as its specification says. Raises as ``ServiceClient.create_lora_training_client``."""
    lora = spec.lora
    return await service.create_lora_training_client_async(
        spec.base_model,
        rank=lora.rank,
        seed=lora.seed,
        train_mlp=lora.train_mlp,
        train_attn=lora.train_attn,
        train_unembed=lora.train_unembed,
        user_metadata=spec.user_metadata,
    )
