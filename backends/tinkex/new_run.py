"""A new run at the service."""

from typing import TYPE_CHECKING

from crucible.training import RunSpec

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training.client import TrainingClient
    from backends.tinkex.types.optimizer import OptimizerConfigBase


async def new_run(
    service: "ServiceClient", spec: RunSpec, optimizer_config: "OptimizerConfigBase | None" = None
) -> "TrainingClient":
    """Start a run as its specification says, by default with AdamW.

    Raises as ``ServiceClient.create_lora_training_client``.
    """
    lora = spec.lora
    return await service.create_lora_training_client_async(
        spec.base_model,
        rank=lora.rank,
        seed=lora.seed,
        train_mlp=lora.train_mlp,
        train_attn=lora.train_attn,
        train_unembed=lora.train_unembed,
        user_metadata=spec.user_metadata,
        optimizer_config=optimizer_config,
    )
