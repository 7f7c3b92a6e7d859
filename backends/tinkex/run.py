"""``TinkexRun``: a remote run of the Tinker API behind the training contract."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.recovery.checkpoints import checkpoints_of
from backends.tinkex.recovery.flag import is_flagged
from backends.tinkex.recovery.monitor import RecoveryMonitor
from backends.tinkex.sampling.token_sampler import TinkexSampler
from backends.tinkex.step_records import adam_params, logprobs_of, reported_loss, wire_data
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from backends.tinkex.types.datum import Datum as WireDatum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from crucible.errors import (
    AnswerLost,
    CallerError,
    MalformedAnswer,
    NameTaken,
    RunCorrupted,
    RunGone,
    Unsupported,
)
from crucible.recovery import RecoveryPolicy
from crucible.runtime.side_by_side import side_by_side
from crucible.token_sampler import SamplerRef, TokenSampler
from crucible.training import (
    Datum,
    ForwardResult,
    Intent,
    IntentKind,
    LiveRun,
    Pending,
    Prepared,
    RunFeatures,
    RunHealth,
    RunRef,
    RunSpec,
    RunState,
    SaveResult,
    StepRequest,
    StepResult,
)
from crucible.values.digest import forward_digest, save_digest, step_digest

if TYPE_CHECKING:
    from backends.tinkex.client.requests.api_future import ApiFuture
    from backends.tinkex.client.training.client import TrainingClient
    from backends.tinkex.types.responses import (
        OptimStepResponse,
        SaveWeightsForSamplerResponse,
        SaveWeightsResponse,
    )

T = TypeVar("T")

_CHECKPOINT_KINDS: Final = {
    IntentKind.SAVE_STATE: CheckpointKind.TRAINING,
    IntentKind.SAVE_SAMPLER: CheckpointKind.SAMPLER,
}


@dataclass(frozen=True, slots=True)
class _PreparedStep:
    request: StepRequest
    data: Sequence[WireDatum]


@dataclass(frozen=True, slots=True)
class _PreparedForward:
    data: Sequence[WireDatum]


@dataclass(frozen=True, slots=True)
class _PreparedSave:
    path: ParsedCheckpointTinkerPath
    """The expected path; servers may answer with one of their own form."""
    ttl_s: int | None


@dataclass(frozen=True, slots=True)
class _PendingResult(Pending[T], Generic[T]):
    read: Callable[[], Awaitable[T]]

    async def result(self) -> T:
        return await self.read()


class TinkexRun(LiveRun):
    """A live run driven through a ``TrainingClient`` with its own session."""

    def __init__(self, client: "TrainingClient", spec: RunSpec, *, loss_tolerance: float = 0.0) -> None:
        self._client = client
        self._spec = spec
        self._rest = client.service.create_rest_client()
        self._loss_tolerance = loss_tolerance

    @property
    def client(self) -> "TrainingClient":
        """The training client of this run."""
        return self._client

    @property
    def ref(self) -> RunRef:
        return RunRef(
            backend=BACKEND,
            run_id=self._client.model_id,
            session_id=self._client.session_id,
            details={
                "base_url": self._client.service.connection.server,
                "replays": self._client.service.features.replays_seq_id,
                "orders": self._client.service.features.orders_seq_id,
                "encoding": self._client.service.features.request_encoding,
                "config": self._client.config.model_dump(mode="json"),
                "spec": self._spec.model_dump(mode="json"),
            },
        )

    @property
    def features(self) -> RunFeatures:
        known = self._client.service.features
        return RunFeatures(
            replays=known.replays_seq_id,
            orders=known.orders_seq_id,
            sets_corrupted_flag=known.corrupted_flag,
            loss_tolerance=self._loss_tolerance,
        )

    @property
    def next_seq_id(self) -> int:
        return self._client.next_seq_id

    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        data = wire_data(request.batch)
        # One number per chunk of the pass, and one for the optimizer.
        count = self._client.chunk_count(data) + 1
        intent = self._intent(IntentKind.STEP, count, request.step, step_digest(request))
        return Prepared(intent, _PreparedStep(request, data))

    def prepare_forward(
        self, batch: Sequence[Datum], *, step: int, name: str | None = None
    ) -> Prepared[ForwardResult]:
        data = wire_data(batch)
        digest = forward_digest(batch, step, name)
        intent = self._intent(IntentKind.FORWARD, self._client.chunk_count(data), step, digest, name)
        return Prepared(intent, _PreparedForward(data))

    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        path = ParsedCheckpointTinkerPath.of(self._client.model_id, _CHECKPOINT_KINDS[kind], name)
        intent = self._intent(kind, 1, step, save_digest(kind, name, step, ttl_s), name)
        return Prepared(intent, _PreparedSave(path, ttl_s))

    async def sampler(
        self, path: str, *, ref: SamplerRef | None = None, record_sequences: bool = False
    ) -> TokenSampler:
        if ref is not None and ref.session_id == self._client.session_id:
            return TinkexSampler.attached(self._client, ref)
        client = await self._client.create_sampling_client_async(path, record_stability_info=record_sequences)
        return TinkexSampler(client, path)

    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        body: Any = prepared.body
        sent: Any
        if isinstance(body, _PreparedStep):
            sent = await self._send_step(prepared.intent, body)
        elif isinstance(body, _PreparedForward):
            future = await self._client.submit_forward(
                body.data, "cross_entropy", seq_id=prepared.intent.first_seq_id
            )
            sent = _PendingResult(lambda: self._forward_result(body, future))
        elif isinstance(body, _PreparedSave):
            sent = await self._send_save(prepared.intent, body)
        else:
            raise invalid("prepared.body", type(body).__name__, "it must come from this run's prepare methods")
        result: Pending[T] = sent
        return result

    async def health(self) -> RunHealth:
        try:
            # A server without the route answers for its models when they are trained.
            with contextlib.suppress(Unsupported):
                await self._client.get_info()
        except RunGone as error:
            return RunHealth(state=RunState.GONE, reason=error.message)
        except RunCorrupted as error:
            return RunHealth(state=RunState.CORRUPTED, reason=error.message)
        if await self._is_flagged(self._client.model_id):
            return RunHealth(state=RunState.CORRUPTED, reason="the service marks the run corrupted")
        return RunHealth(state=RunState.ALIVE)

    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        detected: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        policy = RecoveryPolicy(enabled=True, poll_interval_ms=poll_interval_ms)
        monitor = RecoveryMonitor(self._is_flagged, _CorruptionSignal(detected), policy=policy)
        monitor.monitor_run(self._client.model_id, self._client)
        async with monitor:
            reason = await detected
        return RunCorrupted(
            f"run {self._client.model_id}: {reason}",
            backend=BACKEND,
            details={"run_id": self._client.model_id, "detected_by": "flag"},
        )

    async def close(self, *, unload: bool = False) -> None:
        if unload:
            await self._client.discard()
        await self._client.service.end_sessions()

    def _intent(self, kind: IntentKind, count: int, step: int, digest: str, name: str | None = None) -> Intent:
        first = self._client.reserve_seq_ids(count)
        return Intent(
            kind=kind,
            run_id=self._client.model_id,
            first_seq_id=first,
            last_seq_id=first + count - 1,
            step=step,
            digest=digest,
            name=name,
        )

    async def _send_step(self, intent: Intent, step: _PreparedStep) -> Pending[StepResult]:
        request = step.request
        pass_future: ApiFuture[ForwardBackwardOutput]
        step_future: ApiFuture[OptimStepResponse]
        # one behind the other, or at once where the service orders them by number
        calls: Sequence[Callable[[], Awaitable[Any]]] = (
            lambda: self._client.submit_forward_backward(
                step.data, request.loss_fn, dict(request.loss_config) or None, seq_id=intent.first_seq_id
            ),
            lambda: self._client.submit_optim_step(adam_params(request.optimizer), seq_id=intent.last_seq_id),
        )
        pass_future, step_future = await side_by_side(calls)
        return _PendingResult(lambda: self._step_result(request, pass_future, step_future))

    async def _step_result(
        self,
        request: StepRequest,
        pass_future: "ApiFuture[ForwardBackwardOutput]",
        step_future: "ApiFuture[OptimStepResponse]",
    ) -> StepResult:
        output = await pass_future
        metrics = {**output.metrics, **(await step_future).metrics}
        loss = reported_loss(request, output)
        if not math.isfinite(loss):
            raise RunCorrupted(
                f"run {self._client.model_id} is corrupted: the loss of step {request.step} is {loss}",
                backend=BACKEND,
                request_id=pass_future.request_id,
                details={"run_id": self._client.model_id, "step": request.step, "detected_by": "value"},
            )
        tokens = sum(len(datum.tokens) for datum in request.batch)
        return StepResult(loss=loss, tokens=tokens, metrics=metrics, logprobs=logprobs_of(output, request.batch))

    async def _forward_result(
        self, forward: _PreparedForward, future: "ApiFuture[ForwardBackwardOutput]"
    ) -> ForwardResult:
        output = await future
        arrays = logprobs_of(output, forward.data)
        if arrays is None:
            raise MalformedAnswer(
                "a forward pass was answered without a log-probability for each token",
                backend=BACKEND,
                request_id=future.request_id,
            )
        return ForwardResult(arrays)

    async def _send_save(self, intent: Intent, save: _PreparedSave) -> Pending[SaveResult]:
        future: ApiFuture[SaveWeightsResponse] | ApiFuture[SaveWeightsForSamplerResponse]
        try:
            if intent.kind is IntentKind.SAVE_STATE:
                future = await self._client.submit_save_state(
                    save.path.name, ttl_seconds=save.ttl_s, seq_id=intent.first_seq_id
                )
            else:
                future = await self._client.submit_save_weights_for_sampler(
                    save.path.name, ttl_seconds=save.ttl_s, seq_id=intent.first_seq_id
                )
        except NameTaken as error:
            taken = error
            return _PendingResult(lambda: self._adopt(save.path, taken))
        return _PendingResult(lambda: self._save_result(save, future))

    async def _save_result(
        self,
        save: _PreparedSave,
        future: "ApiFuture[SaveWeightsResponse] | ApiFuture[SaveWeightsForSamplerResponse]",
    ) -> SaveResult:
        try:
            path = (await future).path
        except NameTaken as error:
            return await self._adopt(save.path, error)
        return SaveResult(save.path.tinker_path if path is None else path)

    async def _adopt(self, path: ParsedCheckpointTinkerPath, taken: NameTaken) -> SaveResult:
        """Return the checkpoint under a taken name. No other writer uses this run, so it is an earlier save of the
        same intent. Its path is the service's own, or ours where the service has no listing but knows it.

        Raises AnswerLost when neither is known: the path was in an answer that did not arrive, and a restored run
        saves under another name.
        """
        for listed in await checkpoints_of(self._rest, self._client.model_id):
            if listed.tinker_path == path.tinker_path or listed.checkpoint_id in (path.checkpoint_id, path.name):
                return SaveResult(listed.tinker_path or path.tinker_path, adopted=True)
        try:
            await self._rest.get_weights_info_by_tinker_path(path.tinker_path)
        except (CallerError, Unsupported, RunGone):
            raise AnswerLost(
                f"a save under the name {path.name} exists already, and the service does not say where",
                backend=BACKEND,
                request_id=taken.request_id,
                details={"run_id": self._client.model_id, "name": path.name},
            ) from taken
        return SaveResult(path.tinker_path, adopted=True)

    async def _is_flagged(self, run_id: str) -> bool:
        return await is_flagged(self._rest, run_id)


class _CorruptionSignal:
    """A corruption handler that sets a future."""

    def __init__(self, detected: "asyncio.Future[str]") -> None:
        self._detected = detected

    def take_over(self, run_id: str, client: Any, reason: str) -> None:
        if not self._detected.done():
            self._detected.set_result(reason)
