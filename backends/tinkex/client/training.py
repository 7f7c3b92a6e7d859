"""One remote training run, driven by this process."""

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pydantic import BaseModel

from backends.tinkex.client.api_future import ApiFuture
from backends.tinkex.client.batch_checks import check_batch
from backends.tinkex.client.connection import named_unsupported
from backends.tinkex.client.lane import Lane
from backends.tinkex.client.operation import Operation
from backends.tinkex.client.passes import send_pass
from backends.tinkex.client.queue_reporter import QueueReporter
from backends.tinkex.client.result_poll import Awaited, Decoding, ResultPoll
from backends.tinkex.client.results import check_pass, check_step, pass_decoding, record_decoding
from backends.tinkex.client.session import Session
from backends.tinkex.client.tokenizers import known_vocab_size, load_tokenizer
from backends.tinkex.errors import Sought, invalid, unsupported
from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.model_info import GetInfoResponse
from backends.tinkex.types.requests import (
    LoadWeightsRequest,
    OptimStepRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)
from backends.tinkex.types.responses import (
    AcceptedRequest,
    LoadWeightsResponse,
    OptimStepResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    UnloadModelResponse,
)
from backends.tinkex.types.wire_record import SentRecord
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.chunking import chunked, joined
from backends.tinkex.wire.pass_request_codec import PassRequest
from crucible.errors import CrucibleError, InvalidRequest

if TYPE_CHECKING:
    from backends.tinkex.client.custom_loss import CustomLoss
    from backends.tinkex.client.sampling import SamplingClient
    from backends.tinkex.client.service import ServiceClient

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)
LossConfig = Mapping[str, float | str]
_OPTIONAL: Final = ("overwrite", "ttl_seconds")


class TrainingClient:
    """Requests of one run take effect in the order of the calls; none needs to be waited for before the next. Where
    a server keeps no record of sequence numbers, each is sent when the one before it has its result.

    Every call returns a future (``.result(timeout)`` or ``await``). ``submit_*`` are their two-phase twins:
    awaiting them gives the future once the server has accepted the request. ``seq_id`` may be given to each
    call that changes something, so that a caller that keeps a journal can repeat exactly what it sent.
    """

    def __init__(
        self,
        service: "ServiceClient",
        *,
        model_id: str,
        session: Session,
        config: ClientConfig,
        next_seq_id: int = 1,
    ) -> None:
        self._service = service
        self._connection = service.connection
        self._session = session
        self._config = config
        self._lane = Lane(next_seq_id, one_at_a_time=lambda: service.connection.features.replays_seq_id is False)
        self._info: GetInfoResponse | None = None
        # whether the model may hold gradients that no optimizer step has used
        self._unused_gradients = False
        self._reporter = QueueReporter(service.observer, service.connection.transport.clock, model_id)
        self.model_id = model_id

    @classmethod
    def attach(
        cls,
        service: "ServiceClient",
        *,
        model_id: str,
        session_id: str | None,
        next_seq_id: int,
        config: ClientConfig | None = None,
    ) -> Self:
        """Drive a run that another process began. No I/O: whether it still lives is asked by ``get_info``.

        Heartbeats for ``session_id`` begin with the first request (or ``keep_alive``).
        """
        session = service.attached_session(session_id)
        client = cls(
            service, model_id=model_id, session=session, config=config or ClientConfig(), next_seq_id=next_seq_id
        )
        client._unused_gradients = True
        return client

    def __repr__(self) -> str:
        return f"TrainingClient(model_id={self.model_id!r}, next_seq_id={self.next_seq_id})"

    def result(self, timeout: float | None = None) -> Self:
        """This client: it is ready. For code written for clients that are created by a future."""
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    @property
    def service(self) -> "ServiceClient":
        """The service client that this came from."""
        return self._service

    @property
    def lane(self) -> Lane:
        """The order of this run's requests."""
        return self._lane

    @property
    def session_id(self) -> str | None:
        """The session that keeps the run alive."""
        return self._session.session_id

    @property
    def session_lost(self) -> CrucibleError | None:
        """Why the session has ended, once a heartbeat was told so."""
        return self._session.lost

    @property
    def config(self) -> ClientConfig:
        """The limits by which batches are split; give the same to ``attach`` to split the same way."""
        return self._config

    @property
    def next_seq_id(self) -> int:
        """The number that the next request takes; settable after an attach."""
        return self._lane.next_seq_id

    @next_seq_id.setter
    def next_seq_id(self, value: int) -> None:
        self._lane.next_seq_id = value

    def chunk_count(self, data: Sequence[Datum]) -> int:
        """How many sequence numbers a pass over ``data`` takes."""
        return len(chunked(data, self._config)) if data else 1

    def reserve_seq_ids(self, count: int) -> int:
        """Set ``count`` numbers aside, to be given as ``seq_id`` later; returns the first."""
        with self._lane.guard:
            return self._lane.take(count, None).first

    async def keep_alive(self) -> None:
        """Let heartbeats of the session begin on this event loop."""
        self._session.keep_alive()

    # --- passes ---------------------------------------------------------------------------------------------

    def forward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Losses and log-probabilities, without gradients."""
        return self._one_phase(self._pass(data, loss_fn, loss_fn_config, forward_only=True, seq_id=seq_id))

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Gradients, added to those since the last step. A batch beyond the server's limits goes in chunks, each
        with its own sequence number.

        Raises (at once): InvalidRequest for a batch that is wrong. From the future: RunCorrupted for NaN.
        """
        return self._one_phase(self._pass(data, loss_fn, loss_fn_config, forward_only=False, seq_id=seq_id))

    async def submit_forward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        """As ``forward``; returns when the server has accepted it."""
        return await self._two_phase(self._pass(data, loss_fn, loss_fn_config, forward_only=True, seq_id=seq_id))

    async def submit_forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: LossConfig | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[ForwardBackwardOutput]:
        """As ``forward_backward``; returns when the server has accepted all of it."""
        return await self._two_phase(self._pass(data, loss_fn, loss_fn_config, forward_only=False, seq_id=seq_id))

    def forward_backward_custom(
        self, data: Sequence[Datum], loss_fn: "CustomLoss", *, arrays: str | None = None
    ) -> ApiFuture[ForwardBackwardOutput]:
        """Gradients of a loss of your own over the log-probabilities of ``target_tokens``.

        ``arrays="numpy"``: ``loss_fn(data, logprobs)`` returns ``(loss, gradients, metrics)``, with one gradient
        array for each array of log-probabilities. ``arrays="torch"``: it gets tensors and returns
        ``(loss, metrics)``, and torch finds the gradients. Without ``arrays``: torch where it is imported.
        """
        from backends.tinkex.client.custom_loss import custom_operation

        self._unused_gradients = True
        return self._one_phase(custom_operation(self, data, loss_fn, arrays))

    # --- the optimizer --------------------------------------------------------------------------------------

    def optim_step(self, adam_params: AdamParams, *, seq_id: int | None = None) -> ApiFuture[OptimStepResponse]:
        """Apply the gradients. From the future: RunCorrupted for a metric that is not finite."""
        return self._one_phase(self._optim_step(adam_params, seq_id))

    async def submit_optim_step(
        self, adam_params: AdamParams, *, seq_id: int | None = None
    ) -> ApiFuture[OptimStepResponse]:
        """As ``optim_step``; returns when the server has accepted it."""
        return await self._two_phase(self._optim_step(adam_params, seq_id))

    # --- saving and loading ---------------------------------------------------------------------------------

    def save_state(
        self, name: str, *, ttl_seconds: int | None = None, overwrite: bool = False, seq_id: int | None = None
    ) -> ApiFuture[SaveWeightsResponse]:
        """Save weights and optimizer under ``name``.

        From the future: NameTaken when it exists and ``overwrite`` is not set; Unsupported when the server does
        not know ``ttl_seconds`` or ``overwrite``.
        """
        return self._one_phase(self._save_state(name, ttl_seconds, overwrite, seq_id))

    async def submit_save_state(
        self, name: str, *, ttl_seconds: int | None = None, overwrite: bool = False, seq_id: int | None = None
    ) -> ApiFuture[SaveWeightsResponse]:
        """As ``save_state``; returns when the server has accepted it."""
        return await self._two_phase(self._save_state(name, ttl_seconds, overwrite, seq_id))

    def save_weights_for_sampler(
        self, name: str, *, ttl_seconds: int | None = None, seq_id: int | None = None
    ) -> ApiFuture[SaveWeightsForSamplerResponse]:
        """Save weights to sample from under ``name``."""
        return self._one_phase(self._save_sampler(name, ttl_seconds, seq_id))

    async def submit_save_weights_for_sampler(
        self, name: str, *, ttl_seconds: int | None = None, seq_id: int | None = None
    ) -> ApiFuture[SaveWeightsForSamplerResponse]:
        """As ``save_weights_for_sampler``; returns when the server has accepted it."""
        return await self._two_phase(self._save_sampler(name, ttl_seconds, seq_id))

    def load_state(self, path: str, *, seq_id: int | None = None) -> ApiFuture[LoadWeightsResponse]:
        """Load the weights of a checkpoint; the optimizer starts anew. Some servers allow it only first of all."""
        return self._one_phase(self._load(path, optimizer=False, seq_id=seq_id))

    def load_state_with_optimizer(self, path: str, *, seq_id: int | None = None) -> ApiFuture[LoadWeightsResponse]:
        """Load weights and optimizer. That it came back is the server's word; repeated steps prove it."""
        return self._one_phase(self._load(path, optimizer=True, seq_id=seq_id))

    load_weights_with_optimizer = load_state_with_optimizer

    async def submit_load_state(
        self, path: str, *, optimizer: bool, seq_id: int | None = None
    ) -> ApiFuture[LoadWeightsResponse]:
        """As ``load_state`` or ``load_state_with_optimizer``; returns when the server has accepted it."""
        return await self._two_phase(self._load(path, optimizer=optimizer, seq_id=seq_id))

    def save_weights_and_get_sampling_client(self, name: str | None = None) -> "SamplingClient":
        """Save, and a client that samples from exactly these weights. Blocks; in an event loop use the twin."""
        return self._service.runner.wait(self.save_weights_and_get_sampling_client_async(name))

    async def save_weights_and_get_sampling_client_async(self, name: str | None = None) -> "SamplingClient":
        """As ``save_weights_and_get_sampling_client``. Without a name the save is not meant to be kept."""
        from backends.tinkex.client.sampling import SamplingClient

        if name is not None:
            saved = await self.save_weights_for_sampler(name)
            return await self._service.create_sampling_client_async(model_path=saved.path)
        number = self._session.next_sampler_seq_id()
        saved = await self._one_phase(self._save_sampler(None, None, None, sampling_session_seq_id=number))
        if saved.sampling_session_id is None:
            return await self._service.create_sampling_client_async(model_path=saved.path)
        return SamplingClient(self._service, saved.sampling_session_id, session=self._session)

    # --- the model ------------------------------------------------------------------------------------------

    def get_info(self) -> ApiFuture[GetInfoResponse]:
        """What the server says of the live model. From the future: RunGone when it has none."""
        return self._service.runner.start(self._get_info())

    def get_tokenizer(self) -> Any:
        """The model's tokenizer. Blocks for the model's info; in an event loop use the twin."""
        return self._service.runner.wait(self.get_tokenizer_async())

    async def get_tokenizer_async(self) -> Any:
        """As ``get_tokenizer``. Raises Unsupported when it needs a package that is not installed."""
        return load_tokenizer(self._info or await self.get_info())

    def unload(self) -> ApiFuture[UnloadModelResponse]:
        """Ask the server to free the model. Saved checkpoints stay.

        Gradients that no step has used are used up first where the server keeps no record of sequence numbers:
        SkyRL 0.3.0 would leave them in the model's slot, and the next model there would learn from them.
        """
        return self._service.runner.start(self._unload())

    def probe_replay(self) -> ApiFuture[bool | None]:
        """Find out, by a forward pass of two tokens sent twice under one number, whether this server answers a
        repeated number from its record. Remembered; takes one sequence number. None: the server has no forward.
        """
        from backends.tinkex.client.replay_probe import probe_replay

        return self._service.runner.start(probe_replay(self))

    # --- inside ---------------------------------------------------------------------------------------------

    def _one_phase(self, operation: "Operation[T]") -> ApiFuture[T]:
        with self._lane.guard:
            ticket = operation.take(self._lane)
            work = operation.run(ticket)
            return self._service.runner.start(work, request_ids=lambda: operation.request_ids)

    async def _two_phase(self, operation: "Operation[T]") -> ApiFuture[T]:
        with self._lane.guard:
            ticket = operation.take(self._lane)
            sending = self._service.runner.start(operation.send(ticket))
        try:
            await sending
        except BaseException:
            operation.abandon()
            raise
        return self._service.runner.start(operation.finish(), request_ids=lambda: operation.request_ids)

    def _pass(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        config: LossConfig | None,
        *,
        forward_only: bool,
        seq_id: int | None,
    ) -> "Operation[ForwardBackwardOutput]":
        vocab_size = None if self._info is None else known_vocab_size(self._info)
        check_batch(data, vocab_size=vocab_size)
        if not isinstance(loss_fn, str) or not loss_fn:
            raise invalid("loss_fn", loss_fn, "give the name of a loss, such as cross_entropy")
        chunks = chunked(data, self._config)
        self._unused_gradients = self._unused_gradients or not forward_only

        def send(seq: int, index: int) -> Coroutine[Any, Any, AcceptedRequest]:
            return send_pass(
                self._connection, PassRequest(self.model_id, seq, chunks[index], loss_fn, config, forward_only)
            )

        async def finish(accepted: Sequence[AcceptedRequest]) -> ForwardBackwardOutput:
            route = "forward" if forward_only else "forward_backward"
            kind = "Forward" if forward_only else "ForwardBackward"
            outputs = [
                check_pass(
                    await self.fetch(request.request_id, route, kind, pass_decoding(route)),
                    self.model_id,
                    request.request_id,
                )
                for request in accepted
            ]
            return joined(outputs)

        return Operation(self._lane, len(chunks), seq_id, send, finish, self._before_sending)

    def _optim_step(self, adam_params: AdamParams, seq_id: int | None) -> "Operation[OptimStepResponse]":
        async def finish(accepted: Sequence[AcceptedRequest]) -> OptimStepResponse:
            request_id = accepted[0].request_id
            decoding = record_decoding(OptimStepResponse, "optim_step")
            output = await self.fetch(request_id, "optim_step", "OptimStep", decoding)
            self._unused_gradients = False
            return check_step(output, self.model_id, request_id)

        return self._plain(
            "optim_step",
            lambda seq: OptimStepRequest(model_id=self.model_id, seq_id=seq, adam_params=adam_params),
            finish,
            seq_id,
        )

    def _save_state(
        self, name: str, ttl_seconds: int | None, overwrite: bool, seq_id: int | None
    ) -> "Operation[SaveWeightsResponse]":
        self._check_save(name, ttl_seconds)
        return self._plain(
            "save_weights",
            lambda seq: SaveWeightsRequest(
                model_id=self.model_id,
                path=name,
                seq_id=seq,
                overwrite=True if overwrite else None,
                ttl_seconds=ttl_seconds,
            ),
            self._record_of(SaveWeightsResponse, "save_weights", "SaveWeights"),
            seq_id,
            sought=Sought.SAVE,
        )

    def _save_sampler(
        self,
        name: str | None,
        ttl_seconds: int | None,
        seq_id: int | None,
        sampling_session_seq_id: int | None = None,
    ) -> "Operation[SaveWeightsForSamplerResponse]":
        self._check_save(name, ttl_seconds)
        return self._plain(
            "save_weights_for_sampler",
            lambda seq: SaveWeightsForSamplerRequest(
                model_id=self.model_id,
                seq_id=seq,
                path=name,
                sampling_session_seq_id=sampling_session_seq_id,
                ttl_seconds=ttl_seconds,
            ),
            self._record_of(SaveWeightsForSamplerResponse, "save_weights_for_sampler", "SaveWeightsForSampler"),
            seq_id,
            sought=Sought.SAVE,
        )

    def _load(self, path: str, *, optimizer: bool, seq_id: int | None) -> "Operation[LoadWeightsResponse]":
        ParsedCheckpointTinkerPath.from_tinker_path(path)
        return self._plain(
            "load_weights",
            lambda seq: LoadWeightsRequest(model_id=self.model_id, seq_id=seq, path=path, optimizer=optimizer),
            self._record_of(LoadWeightsResponse, "load_weights", "LoadWeights"),
            seq_id,
            sought=Sought.CHECKPOINT,
        )

    def _plain(
        self,
        route: str,
        body: Callable[[int], SentRecord],
        finish: "Callable[[Sequence[AcceptedRequest]], Coroutine[Any, Any, T]]",
        seq_id: int | None,
        *,
        sought: Sought = Sought.RUN,
    ) -> "Operation[T]":
        async def send(seq: int, index: int) -> AcceptedRequest:
            repeatable = self._connection.features.replays_seq_id is not False
            try:
                return await self._connection.submit(
                    route, json_body(body(seq).body()), sought=sought, repeatable=repeatable
                )
            except InvalidRequest as error:
                raise named_unsupported(error, _OPTIONAL, self._connection.server) from error

        return Operation(self._lane, 1, seq_id, send, finish, self._before_sending)

    def _record_of(
        self, kind: type[B], route: str, request_type: str
    ) -> Callable[[Sequence[AcceptedRequest]], Coroutine[Any, Any, B]]:
        async def finish(accepted: Sequence[AcceptedRequest]) -> B:
            return await self.fetch(accepted[0].request_id, route, request_type, record_decoding(kind, route))

        return finish

    async def fetch(self, request_id: str, route: str, request_type: str, decoding: Decoding[T]) -> T:
        """Wait for the result of an accepted request of this run, by its id."""
        awaited = Awaited(
            request_id, route, request_type, decoding, self._reporter, no_progress_s=self._service.no_progress_s
        )
        return await ResultPoll(self._connection, awaited).result()

    async def _before_sending(self) -> None:
        self._session.keep_alive()

    async def _get_info(self) -> GetInfoResponse:
        body = {"model_id": self.model_id, "type": "get_info"}
        self._info = await self._connection.post("get_info", body, GetInfoResponse, sought=Sought.RUN)
        return self._info

    async def _unload(self) -> UnloadModelResponse:
        if self._unused_gradients and self._connection.features.replays_seq_id is False:
            with suppress(CrucibleError):
                await self.optim_step(AdamParams(learning_rate=0.0))
        body = json_body({"model_id": self.model_id, "type": "unload_model"})
        accepted = await self._connection.submit("unload_model", body, sought=Sought.RUN)
        decoding = record_decoding(UnloadModelResponse, "unload_model")
        return await self.fetch(accepted.request_id, "unload_model", "UnloadModel", decoding)

    def _check_save(self, name: str | None, ttl_seconds: int | None) -> None:
        if name is not None and (not name or "/" in name or name in (".", "..")):
            raise invalid("name", name, "a name without slashes")
        if ttl_seconds is not None and ttl_seconds < 1:
            raise invalid("ttl_seconds", ttl_seconds, "at least 1 second")
        if ttl_seconds is not None and self._connection.features.ttl is False:
            raise unsupported("ttl_seconds", server=self._connection.server)
