"""``TinkexRun``: a remote run of the Tinker API, as the training contract wants it."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.recovery.checkpoints import checkpoints_of
from backends.tinkex.recovery.monitor import RecoveryMonitor
from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from backends.tinkex.types.datum import Datum as WireDatum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.model_input import ModelInput
from crucible.digest import save_digest, step_digest
from crucible.errors import CrucibleError, NameTaken, NotFound, RunCorrupted, RunGone, Unsupported
from crucible.recovery import RecoveryPolicy
from crucible.training import (
    Datum,
    Intent,
    IntentKind,
    LiveRun,
    OptimizerSpec,
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

if TYPE_CHECKING:
    from backends.tinkex.client.api_future import ApiFuture
    from backends.tinkex.client.training import TrainingClient
    from backends.tinkex.types.responses import (
        OptimStepResponse,
        SaveWeightsForSamplerResponse,
        SaveWeightsResponse,
    )

T = TypeVar("T")

_UNLOAD_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class _Step:
    request: StepRequest
    data: Sequence[WireDatum]


@dataclass(frozen=True, slots=True)
class _Save:
    name: str
    ttl_s: int | None


@dataclass(frozen=True, slots=True)
class _Waiting(Pending[T], Generic[T]):
    """A result that ``read`` waits for."""

    read: Callable[[], Awaitable[T]]

    async def result(self) -> T:
        return await self.read()


class TinkexRun(LiveRun):
    """Drives one remote run through a ``TrainingClient`` whose session is its own."""

    def __init__(self, client: "TrainingClient", spec: RunSpec, *, loss_tolerance: float = 0.0) -> None:
        self._client = client
        self._spec = spec
        self._rest = client.service.create_rest_client()
        self._loss_tolerance = loss_tolerance

    @property
    def client(self) -> "TrainingClient":
        """The client underneath."""
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
            restores_optimizer=known.optimizer_restore,
            sets_corrupted_flag=known.corrupted_flag,
            loss_tolerance=self._loss_tolerance,
        )

    @property
    def next_seq_id(self) -> int:
        return self._client.next_seq_id

    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        data = [_wire_datum(datum, f"batch[{index}]") for index, datum in enumerate(request.batch)]
        if not data:
            raise invalid("batch", [], "at least one example is needed")
        # The chunks of the pass, and the optimizer after them.
        count = self._client.chunk_count(data) + 1
        intent = self._intent(IntentKind.STEP, count, request.step, step_digest(request))
        return Prepared(intent, _Step(request, data))

    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        ParsedCheckpointTinkerPath.of(self._client.model_id, _KINDS[kind], name)
        intent = self._intent(kind, 1, step, save_digest(kind, name, step, ttl_s), name)
        return Prepared(intent, _Save(name, ttl_s))

    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        body: Any = prepared.body
        sent: Any
        if isinstance(body, _Step):
            sent = await self._send_step(prepared.intent, body)
        elif isinstance(body, _Save):
            sent = await self._send_save(prepared.intent, body)
        else:
            raise invalid("prepared.body", type(body).__name__, "it must come from this run's prepare methods")
        result: Pending[T] = sent
        return result

    async def health(self) -> RunHealth:
        try:
            await self._client.get_info()
        except RunGone as error:
            return RunHealth(state=RunState.GONE, reason=error.message)
        except RunCorrupted as error:
            return RunHealth(state=RunState.CORRUPTED, reason=error.message)
        if await self._is_flagged(self._client.model_id):
            return RunHealth(state=RunState.CORRUPTED, reason="the service marks the run corrupted")
        return RunHealth(state=RunState.ALIVE)

    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        policy = RecoveryPolicy(enabled=True, poll_interval_ms=poll_interval_ms)
        monitor = RecoveryMonitor(self._is_flagged, _Signal(seen), policy=policy)
        monitor.monitor_run(self._client.model_id, self._client)
        async with monitor:
            reason = await seen
        return RunCorrupted(
            f"run {self._client.model_id}: {reason}",
            backend=BACKEND,
            details={"run_id": self._client.model_id, "detected_by": "flag"},
        )

    async def close(self, *, unload: bool = False) -> None:
        if unload:
            with contextlib.suppress(CrucibleError, TimeoutError):
                async with asyncio.timeout(_UNLOAD_WITHIN_S):
                    await self._client.unload()
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

    async def _send_step(self, intent: Intent, step: _Step) -> Pending[StepResult]:
        request = step.request
        passed = await self._client.submit_forward_backward(
            step.data, request.loss_fn, dict(request.loss_config) or None, seq_id=intent.first_seq_id
        )
        stepped = await self._client.submit_optim_step(_adam(request.optimizer), seq_id=intent.last_seq_id)
        return _Waiting(lambda: self._step_result(request, passed, stepped))

    async def _step_result(
        self,
        request: StepRequest,
        passed: "ApiFuture[ForwardBackwardOutput]",
        stepped: "ApiFuture[OptimStepResponse]",
    ) -> StepResult:
        output = await passed
        metrics = {**output.metrics, **(await stepped).metrics}
        loss = _loss(request, output)
        if not math.isfinite(loss):
            raise RunCorrupted(
                f"run {self._client.model_id} is poisoned: the loss of step {request.step} is {loss}",
                backend=BACKEND,
                request_id=passed.request_id,
                details={"run_id": self._client.model_id, "step": request.step, "detected_by": "value"},
            )
        return StepResult(loss=loss, tokens=sum(len(datum.tokens) for datum in request.batch), metrics=metrics)

    async def _send_save(self, intent: Intent, save: _Save) -> Pending[SaveResult]:
        waiting: ApiFuture[SaveWeightsResponse] | ApiFuture[SaveWeightsForSamplerResponse]
        try:
            if intent.kind is IntentKind.SAVE_STATE:
                waiting = await self._client.submit_save_state(
                    save.name, ttl_seconds=save.ttl_s, seq_id=intent.first_seq_id
                )
            else:
                waiting = await self._client.submit_save_weights_for_sampler(
                    save.name, ttl_seconds=save.ttl_s, seq_id=intent.first_seq_id
                )
        except NameTaken as error:
            taken = error
            return _Waiting(lambda: self._adopt(intent, taken))
        return _Waiting(lambda: self._save_result(intent, waiting))

    async def _save_result(
        self,
        intent: Intent,
        waiting: "ApiFuture[SaveWeightsResponse] | ApiFuture[SaveWeightsForSamplerResponse]",
    ) -> SaveResult:
        try:
            path = (await waiting).path
        except NameTaken as error:
            return await self._adopt(intent, error)
        if path is None:
            path = _path_of(self._client.model_id, intent)
        return SaveResult(path)

    async def _adopt(self, intent: Intent, taken: NameTaken) -> SaveResult:
        """What lies under the name: this run is ours alone, so it is an earlier save of the same intent."""
        expected = _path_of(self._client.model_id, intent)
        wanted = ParsedCheckpointTinkerPath.from_tinker_path(expected).checkpoint_id
        for listed in await checkpoints_of(self._rest, self._client.model_id):
            if listed.tinker_path == expected or listed.checkpoint_id in (wanted, intent.name):
                return SaveResult(listed.tinker_path or expected, adopted=True)
        raise taken

    async def _is_flagged(self, run_id: str) -> bool:
        """Whether the service marks the run corrupted. One that keeps no record of runs marks none."""
        try:
            return (await self._rest.get_training_run(run_id)).corrupted
        except (NotFound, RunGone, Unsupported):
            return False


class _Signal:
    """Takes a corrupted run by setting a future: what to do about it is for whoever watches."""

    def __init__(self, seen: "asyncio.Future[str]") -> None:
        self._seen = seen

    def take_over(self, run_id: str, client: Any, reason: str) -> None:
        if not self._seen.done():
            self._seen.set_result(reason)


_KINDS = {IntentKind.SAVE_STATE: CheckpointKind.TRAINING, IntentKind.SAVE_SAMPLER: CheckpointKind.SAMPLER}


def _path_of(run_id: str, intent: Intent) -> str:
    return ParsedCheckpointTinkerPath.of(run_id, _KINDS[intent.kind], intent.name or "").tinker_path


def _adam(optimizer: OptimizerSpec) -> AdamParams:
    return AdamParams(
        learning_rate=optimizer.learning_rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        grad_clip_norm=optimizer.grad_clip_norm,
    )


def _wire_datum(datum: Datum, place: str) -> WireDatum:
    for name, values in datum.loss_inputs.items():
        if len(values) != len(datum.tokens):
            raise invalid(f"{place}.{name}", f"{len(values)} values", f"one for each of {len(datum.tokens)} tokens")
    return WireDatum(model_input=ModelInput.from_ints(datum.tokens), loss_fn_inputs=dict(datum.loss_inputs))


def _loss(request: StepRequest, output: ForwardBackwardOutput) -> float:
    """Nats per trained token: from the log probabilities where the service gives them, else from its metrics.

    ``fsum`` rounds once, so the loss does not depend on how a batch was split.
    """
    weights = [datum.loss_inputs.get("weights") for datum in request.batch]
    given = [record.get("logprobs") for record in output.loss_fn_outputs]
    if request.loss_fn == "cross_entropy" and len(given) == len(weights) and None not in given:
        terms, total = [], []
        for tensor, weight in zip(given, weights, strict=True):
            if tensor is None or weight is None:
                break
            terms += [float(w) * float(p) for w, p in zip(weight, tensor.tolist(), strict=True) if w]
            total += [float(w) for w in weight]
        else:
            # fsum refuses to add infinities of both signs; any of them is a poisoned loss anyway.
            if not all(map(math.isfinite, terms)):
                return math.nan
            return -math.fsum(terms) / (math.fsum(total) or 1.0)
    for name in ("loss:mean", "loss"):
        if name in output.metrics:
            return output.metrics[name]
    tokens = math.fsum(float(w) for weight in weights for w in (() if weight is None else weight))
    return output.metrics.get("loss:sum", math.nan) / (tokens or 1.0)
