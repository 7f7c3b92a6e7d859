"""The creation of models at a server, from a base model or from a checkpoint."""

from typing import Final

from backends.tinkex.client.requests.queue_reporter import QueueReporter
from backends.tinkex.client.requests.result_poll import PollTarget, ResultPoll
from backends.tinkex.client.requests.results import record_decoding
from backends.tinkex.client.session import Session
from backends.tinkex.client.training.client import TrainingClient
from backends.tinkex.client.training.state_route import STATE_ROUTE
from backends.tinkex.client.training.training_service import TrainingService
from backends.tinkex.errors import Resource, unsupported
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.lora_config import LoraConfig
from backends.tinkex.types.optimizer import ADAMW, OptimizerConfigBase
from backends.tinkex.types.requests import CreateModelRequest
from backends.tinkex.types.responses import AcceptedRequest, CreateModelResponse
from backends.tinkex.types.weights_info import WeightsInfo
from backends.tinkex.wire.body import json_body
from crucible.errors import Unsupported

DEFAULT_RANK: Final = 32


class ModelCreation:
    """Creates models in one session, and returns their clients.

    ``waits_for_capacity``: whether a creation waits while the server is at its limit of models.
    """

    def __init__(self, service: TrainingService, session: Session, *, waits_for_capacity: bool) -> None:
        self._service = service
        self._connection = service.connection
        self._session = session
        self._waits_for_capacity = waits_for_capacity

    async def from_base(
        self,
        base_model: str,
        lora: LoraConfig,
        user_metadata: dict[str, str],
        optimizer: OptimizerConfigBase | None = None,
    ) -> TrainingClient:
        """Create a model from a base model. Raises Unsupported for an optimizer that the server ignores."""
        # AdamW is what every server has, and what some would refuse to be told.
        optimizer = None if optimizer is None or optimizer.type == ADAMW else optimizer
        config = await self._connection.client_config()
        session_id = await self._session.ensure()
        request = CreateModelRequest(
            session_id=session_id,
            model_seq_id=self._session.next_model_seq_id(),
            base_model=base_model,
            lora_config=lora,
            user_metadata=user_metadata or None,
            optimizer_config=optimizer,
        )
        accepted = await self._connection.submit(
            "create_model",
            json_body(request.body()),
            resource=Resource.MODEL,
            waits_for_capacity=self._waits_for_capacity,
        )
        created = await self._created(accepted, "create_model", base_model)
        client = TrainingClient(self._service, model_id=created.model_id, session=self._session, config=config)
        if optimizer is not None:
            await self._check_family(client, optimizer)
        return client

    async def _check_family(self, client: TrainingClient, optimizer: OptimizerConfigBase) -> None:
        """Raise Unsupported when a server has ignored the family: it would train with another one."""
        found = (await client.get_info()).optimizer_config
        if found is None or found.type != optimizer.type:
            await client.discard()
            raise unsupported(f"the optimizer {optimizer.type}", server=self._connection.server)

    async def from_state(
        self,
        checkpoint: CheckpointAddress,
        user_metadata: dict[str, str],
        *,
        optimizer: bool,
        family: OptimizerConfigBase | None = None,
    ) -> TrainingClient:
        """Create a model from a checkpoint: with the state of its ``optimizer``, or with one of a ``family``."""
        try:
            info = await self._connection.post(
                "weights_info", {"tinker_path": checkpoint.text}, WeightsInfo, resource=Resource.CHECKPOINT
            )
        except Unsupported as missing:
            if user_metadata or family is not None:
                raise unsupported("weights_info", server=self._connection.server) from missing
            return await self._from_state_alone(checkpoint, missing, optimizer=optimizer)
        lora = LoraConfig(
            rank=info.lora_rank or DEFAULT_RANK,
            train_unembed=info.train_unembed is not False,
            train_mlp=info.train_mlp is not False,
            train_attn=info.train_attn is not False,
        )
        # a state of an optimizer is of its family
        family = info.optimizer_config if optimizer else family
        client = await self.from_base(info.base_model, lora, user_metadata, family)
        try:
            # Some servers accept a load only as a run's first request.
            await (await client.submit_load_state(checkpoint, optimizer=optimizer))
        except BaseException:
            await client.discard()
            raise
        return client

    async def _from_state_alone(
        self, checkpoint: CheckpointAddress, missing: Unsupported, *, optimizer: bool
    ) -> TrainingClient:
        """Start a run by the route that open-rl has for it, as it does not describe its checkpoints."""
        body = {"state_path": checkpoint.text, "restore_optimizer": optimizer}
        try:
            accepted = await self._connection.submit(STATE_ROUTE, json_body(body), resource=Resource.CHECKPOINT)
        except Unsupported:
            raise unsupported("weights_info", server=self._connection.server) from missing
        config = await self._connection.client_config()
        await self._session.ensure()
        created = await self._created(accepted, STATE_ROUTE, checkpoint.text)
        return TrainingClient(self._service, model_id=created.model_id, session=self._session, config=config)

    async def _created(self, accepted: AcceptedRequest, route: str, subject: str) -> CreateModelResponse:
        target = PollTarget(
            accepted.request_id,
            route,
            "CreateModel",
            record_decoding(CreateModelResponse, route),
            QueueReporter(self._service.observer, self._connection.transport.clock, subject),
            resource=Resource.MODEL,
            no_progress_s=self._service.no_progress_s,
        )
        return await ResultPoll(self._connection, target).result()
