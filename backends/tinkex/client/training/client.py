"""The client of one remote training run."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

from backends.tinkex.client.custom_losses.custom_loss import CustomLoss, custom_operation
from backends.tinkex.client.custom_losses.loss_handle import LossHandle
from backends.tinkex.client.ready_client import ReadyClient
from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.results import record_decoding
from backends.tinkex.client.sampling.run_sampler import RunSamplingMethods
from backends.tinkex.client.session import Session
from backends.tinkex.client.tokenizers import known_vocab_size, load_tokenizer
from backends.tinkex.client.training.channel.order_probe import probe_order
from backends.tinkex.client.training.channel.replay_probe import probe_replay
from backends.tinkex.client.training.channel.run_channel import RunChannel, Submission
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.client.training.checkpoint_methods import CheckpointMethods
from backends.tinkex.client.training.step_operations import (
    CUSTOM_LOSS,
    LossConfig,
    optim_step_operation,
    pass_operation,
)
from backends.tinkex.client.training.training_service import TrainingService
from backends.tinkex.errors import Resource
from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.model_info import GetInfoResponse
from backends.tinkex.types.optimizer import OptimParamsBase
from backends.tinkex.types.responses import (
    OptimStepResponse,
    UnloadModelResponse,
)
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.chunks import chunked
from crucible.errors import CrucibleError

_DISCARD_TIMEOUT_S: Final = 10.0


class TrainingClient(ReadyClient, CheckpointMethods, RunSamplingMethods):
    """A client that drives one remote run. Requests take effect in call order, without waiting for each other.

    Where a server keeps no record of sequence numbers, each request is sent once the previous one has its result.

    Every call returns a future (``.result(timeout)`` or ``await``). The ``submit_*`` twins have two phases:
    awaiting them returns the future once the server has accepted the request. Arguments are taken as they are at
    the call; the caller may change its arrays afterwards. Calls that change the run accept a ``seq_id``, so that a
    caller with a journal can repeat exactly the request that it sent before.
    """

    def __init__(
        self,
        service: TrainingService,
        *,
        model_id: str,
        session: Session,
        config: ClientConfig,
        next_seq_id: int = 1,
    ) -> None:
        self._service = service
        self._channel = RunChannel(
            service, model_id=model_id, session=session, config=config, next_seq_id=next_seq_id
        )
        self._info: GetInfoResponse | None = None
        self.model_id = model_id

    @classmethod
    def attach(
        cls,
        service: TrainingService,
        *,
        model_id: str,
        session_id: str | None,
        next_seq_id: int,
        config: ClientConfig | None = None,
    ) -> Self:
        """Return a client of a run that another process started. No I/O; ``get_info`` reports whether it is alive.

        The first request (or ``keep_alive``) starts the heartbeats of ``session_id``.
        """
        session = service.attached_session(session_id)
        client = cls(
            service, model_id=model_id, session=session, config=config or ClientConfig(), next_seq_id=next_seq_id
        )
        client._channel.may_have_gradients = True
        return client

    def __repr__(self) -> str:
        return f"TrainingClient(model_id={self.model_id!r}, next_seq_id={self.next_seq_id})"

    @property
    def service(self) -> TrainingService:
        """The service client that created this client."""
        return self._service

    @property
    def session_id(self) -> str | None:
        """The id of the session that keeps the run alive."""
        return self._channel.session.session_id

    @property
    def session_lost(self) -> CrucibleError | None:
        """The error with which the server ended the session, once a heartbeat has received it."""
        return self._channel.session.lost

    @property
    def config(self) -> ClientConfig:
        """The limits by which batches are split. Pass them to ``attach`` to split the same way."""
        return self._channel.config

    @property
    def next_seq_id(self) -> int:
        """The sequence number of the next request; settable after an attach."""
        return self._channel.sequencer.next_seq_id

    @next_seq_id.setter
    def next_seq_id(self, value: int) -> None:
        self._channel.sequencer.next_seq_id = value

    def chunk_count(self, data: Sequence[Datum]) -> int:
        """Return the number of sequence numbers that a pass over ``data`` uses."""
        return len(chunked(data, self.config)) if data else 1

    def reserve_seq_ids(self, count: int) -> int:
        """Reserve ``count`` sequence numbers for later use as ``seq_id``; return the first."""
        with self._channel.sequencer.lock:
            return self._channel.sequencer.reserve(count, None).first

    async def keep_alive(self) -> None:
        """Start the session's heartbeats on this event loop."""
        await self._channel.keep_alive()

    # --- passes ---------------------------------------------------------------------------------------------

    def forward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Compute losses and log-probabilities without gradients."""
        return self._channel.start(self._pass(data, loss_fn, loss_fn_config, forward_only=True, seq_id=seq_id))

    def submit_forward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> Submission[ForwardBackwardOutput]:
        """As ``forward``; returns once the server has accepted it."""
        return self._channel.submit(self._pass(data, loss_fn, loss_fn_config, forward_only=True, seq_id=seq_id))

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Compute gradients and add them to those accumulated since the last optimizer step.

        A batch over the server's limits is split into chunks, each with its own sequence number.

        Raises (at once): InvalidRequest for an invalid batch. From the future: RunCorrupted for NaN.
        """
        return self._channel.start(self._pass(data, loss_fn, loss_fn_config, forward_only=False, seq_id=seq_id))

    def submit_forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> Submission[ForwardBackwardOutput]:
        """As ``forward_backward``; returns once the server has accepted every chunk."""
        return self._channel.submit(self._pass(data, loss_fn, loss_fn_config, forward_only=False, seq_id=seq_id))

    def forward_backward_custom(
        self, data: Sequence[Datum], loss_fn: CustomLoss | LossHandle, *, arrays: str | None = None
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Compute gradients of a caller-defined loss over the log-probabilities of ``target_tokens``.

        ``arrays="numpy"``: ``loss_fn(data, logprobs)`` returns ``(loss, gradients, metrics)``, with one gradient
        array per array of log-probabilities. ``arrays="torch"``: it receives tensors and returns
        ``(loss, metrics)``; autograd computes the gradients. Default: torch if it is imported, else numpy.
        A ``LossHandle`` is computed by the server, or with torch where the server computes none.

        In the result of a loss that the client computes, ``loss:sum`` is its value, and ``surrogate_loss:sum`` that
        of the linear loss by which the server applied its gradients.
        """
        if isinstance(loss_fn, LossHandle):
            loss_fn.check(data, self.session_id)
            if loss_fn.loss_id is not None:
                return self.forward_backward(data, CUSTOM_LOSS, {"loss_id": loss_fn.loss_id})
            loss_fn, arrays = loss_fn.of_batch, "torch"
        self._channel.may_have_gradients = True
        return self._channel.start(custom_operation(self._channel, data, loss_fn, arrays))

    # --- the optimizer --------------------------------------------------------------------------------------

    def optim_step(
        self, adam_params: AdamParams | OptimParamsBase, *, seq_id: int | None = None
    ) -> ApiFuture[OptimStepResponse]:
        """Apply the accumulated gradients, with the hyperparameters of the model's family of optimizers.

        From the future: RunCorrupted for a non-finite metric.
        """
        return self._channel.start(optim_step_operation(self._channel, adam_params, seq_id))

    def submit_optim_step(
        self, adam_params: AdamParams | OptimParamsBase, *, seq_id: int | None = None
    ) -> Submission[OptimStepResponse]:
        """As ``optim_step``; returns once the server has accepted it."""
        return self._channel.submit(optim_step_operation(self._channel, adam_params, seq_id))

    # --- the model ------------------------------------------------------------------------------------------

    def get_info(self) -> ApiFuture[GetInfoResponse]:
        """Return the server's description of the live model. From the future: RunGone when there is none."""
        return self._service.runner.start(self._get_info())

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer. Blocks for the model's info; in an event loop use the twin."""
        return self._service.runner.wait(self.get_tokenizer_async())

    async def get_tokenizer_async(self) -> Any:
        """As ``get_tokenizer``. Raises Unsupported when a required package is not installed."""
        return load_tokenizer(self._info or await self.get_info())

    def unload(self) -> ApiFuture[UnloadModelResponse]:
        """Free the model at the server. Saved checkpoints remain.

        On a server without a record of sequence numbers, unused gradients are first consumed by a step with
        learning rate 0: SkyRL 0.3.0 leaves them in the model's slot, and the next model there would train on them.
        """
        return self._service.runner.start(self._unload())

    async def discard(self) -> None:
        """Free the model if the server does so soon, whatever comes of it: for a run that is of no use."""
        with suppress(CrucibleError, TimeoutError):
            async with asyncio.timeout(_DISCARD_TIMEOUT_S):
                await self.unload()

    def probe_replay(self) -> ApiFuture[bool | None]:
        """Find out whether the server answers a repeated sequence number from its record.

        Sends a forward pass of two tokens twice under one sequence number. The answer is remembered; it is None
        when the server cannot do that. The run goes on without the answer.
        """
        return self._channel.start_probe(probe_replay(self._channel))

    def probe_order(self) -> ApiFuture[bool | None]:
        """Find out whether requests of a run may be sent ahead of earlier ones: once for each server, and only
        where that is worth its time (None otherwise). Call it before the run's first request, after
        ``probe_replay``.

        From the future: OrderUnclear when the run must not be used, since its next number is unknown.
        """
        return self._channel.start_probe(probe_order(self._channel))

    # --- private --------------------------------------------------------------------------------------------

    def _pass(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        config: LossConfig | None,
        *,
        forward_only: bool,
        seq_id: int | None,
    ) -> RunOperation[ForwardBackwardOutput]:
        vocab_size = None if self._info is None else known_vocab_size(self._info)
        return pass_operation(
            self._channel,
            data,
            loss_fn,
            config,
            forward_only=forward_only,
            seq_id=seq_id,
            vocab_size=vocab_size,
        )

    async def _get_info(self) -> GetInfoResponse:
        body = {"model_id": self.model_id, "type": "get_info"}
        self._info = await self._channel.connection.post("get_info", body, GetInfoResponse, resource=Resource.RUN)
        return self._info

    async def _unload(self) -> UnloadModelResponse:
        connection = self._channel.connection
        if self._channel.may_have_gradients and connection.features.replays_seq_id is False:
            with suppress(CrucibleError):
                await self.optim_step(AdamParams(learning_rate=0.0))
        body = json_body({"model_id": self.model_id, "type": "unload_model"})
        accepted = await connection.submit("unload_model", body, resource=Resource.RUN)
        decoding = record_decoding(UnloadModelResponse, "unload_model")
        return await self._channel.fetch(accepted.request_id, "unload_model", "UnloadModel", decoding)
