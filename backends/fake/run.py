"""A training run of the scripted backend: it lives as long as the process, and answers a repeat from its record."""

import asyncio
import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from backends.fake.checkpoints import CheckpointFolder, CheckpointPath
from backends.fake.model import Model
from backends.fake.settings import Script, ScriptedCorruption
from crucible.digest import save_digest, step_digest
from crucible.errors import InvalidRequest, NameTaken, NotFound, RunCorrupted, RunGone
from crucible.training import (
    Datum,
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

T = TypeVar("T")

_FEATURES: Final = RunFeatures(replays=True, restores_optimizer=True, sets_corrupted_flag=True)


@dataclass(slots=True)
class RemoteRun:
    """What a service would hold: the model, and a record of every operation by its first sequence number."""

    run_id: str
    model: Model
    corruption: ScriptedCorruption | None = None
    steps: int = 0
    corrupted: bool = False
    drivers: int = 0
    record: dict[int, tuple[str, object]] = field(default_factory=dict)


class RemoteRuns:
    """The runs of this process. Of those that nobody drives only the newest are remembered."""

    def __init__(self, most_idle: int = 32) -> None:
        self._most_idle = most_idle
        self._runs: OrderedDict[str, RemoteRun] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, model: Model, corruption: ScriptedCorruption | None) -> RemoteRun:
        """A new run around a model."""
        run = RemoteRun(f"fake-{uuid.uuid4().hex[:16]}", model, corruption)
        with self._lock:
            idle = [run_id for run_id, known in self._runs.items() if known.drivers == 0]
            for run_id in idle[: -self._most_idle]:
                del self._runs[run_id]
            self._runs[run.run_id] = run
        return run

    def get(self, run_id: str) -> RemoteRun | None:
        """The run, if it still lives."""
        with self._lock:
            return self._runs.get(run_id)

    def drop(self, run_id: str) -> None:
        """Forget a run; its checkpoints stay."""
        with self._lock:
            self._runs.pop(run_id, None)


REMOTE_RUNS: Final = RemoteRuns()
"""Stands for the service: shared by all backends of a process, so that one may attach to what another began."""


@dataclass(frozen=True, slots=True)
class _Done(Pending[T], Generic[T]):
    """An operation whose outcome is settled, told after a delay."""

    delay_s: float
    outcome: T | Exception

    async def result(self) -> T:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass(frozen=True, slots=True)
class _Save:
    path: CheckpointPath
    ttl_s: int | None


class FakeRun(LiveRun):
    """Drives a ``RemoteRun``. An operation takes effect when it is sent."""

    def __init__(
        self, run: RemoteRun, spec: RunSpec, checkpoints: CheckpointFolder, script: Script, next_seq_id: int = 1
    ) -> None:
        self._run = run
        self._spec = spec
        self._checkpoints = checkpoints
        self._delay_s = script.delay_ms / 1000
        self._next_seq_id = next_seq_id
        self._open = True
        run.drivers += 1

    @property
    def ref(self) -> RunRef:
        return RunRef(
            backend="fake",
            run_id=self._run.run_id,
            details={"base_model": self._spec.base_model, "spec": _spec(self._spec)},
        )

    @property
    def features(self) -> RunFeatures:
        return _FEATURES

    @property
    def next_seq_id(self) -> int:
        return self._next_seq_id

    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        _check_batch(request)
        digest = step_digest(request)
        return Prepared(self._intent(IntentKind.STEP, 2, request.step, digest), request)

    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        path = CheckpointPath.of_save(self._run.run_id, kind, name)
        digest = save_digest(kind, name, step, ttl_s)
        return Prepared(self._intent(kind, 1, step, digest, name), _Save(path, ttl_s))

    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        self._require_life()
        seq_id, digest = prepared.intent.first_seq_id, prepared.intent.digest
        known = self._run.record.get(seq_id)
        if known is None:
            known = self._run.record[seq_id] = (digest, self._effect(prepared))
        elif known[0] != digest:
            raise InvalidRequest.of("seq_id", seq_id, "it was used for another request already", backend="fake")
        outcome: Any = known[1]
        return _Done(self._delay_s, outcome)

    async def health(self) -> RunHealth:
        if REMOTE_RUNS.get(self._run.run_id) is None:
            return RunHealth(state=RunState.GONE, reason="the run was closed")
        if self._run.corrupted:
            return RunHealth(state=RunState.CORRUPTED, reason="corrupted as scripted")
        return RunHealth(state=RunState.ALIVE)

    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        while True:
            if self._run.corrupted:
                return _corrupted(self._run.run_id)
            await asyncio.sleep(poll_interval_ms / 1000)

    async def close(self, *, unload: bool = False) -> None:
        if self._open:
            self._open = False
            self._run.drivers -= 1
        if unload:
            REMOTE_RUNS.drop(self._run.run_id)

    def weights_digest(self) -> str:
        """A hash of the trained weights' bits."""
        return self._run.model.digest()

    def _intent(self, kind: IntentKind, count: int, step: int, digest: str, name: str | None = None) -> Intent:
        first = self._next_seq_id
        self._next_seq_id += count
        return Intent(
            kind=kind,
            run_id=self._run.run_id,
            first_seq_id=first,
            last_seq_id=first + count - 1,
            step=step,
            digest=digest,
            name=name,
        )

    def _require_life(self) -> None:
        if REMOTE_RUNS.get(self._run.run_id) is None:
            raise RunGone(f"run {self._run.run_id} no longer lives", backend="fake")

    def _effect(self, prepared: Prepared[Any]) -> object:
        if self._run.corrupted:
            return _corrupted(self._run.run_id)
        if isinstance(prepared.body, StepRequest):
            return self._step(prepared.body)
        if isinstance(prepared.body, _Save):
            return self._save(prepared.body, prepared.intent.step)
        raise InvalidRequest.of("prepared.body", type(prepared.body).__name__, "it must come from prepare_*")

    def _step(self, request: StepRequest) -> StepResult | RunCorrupted:
        run = self._run
        weighted = total = 0.0
        for datum in request.batch:
            targets, weights = datum.loss_inputs["target_tokens"], datum.loss_inputs["weights"]
            logprobs = run.model.backward(datum.tokens, targets, weights)
            weighted -= math.fsum(float(w) * float(p) for w, p in zip(weights, logprobs, strict=True))
            total += math.fsum(map(float, weights))
        norm = run.model.step(request.optimizer)
        run.steps += 1
        if run.corruption is not None and run.steps >= run.corruption.after_steps:
            if run.corruption.mode == "flag":
                run.corrupted = True
            return _corrupted(run.run_id)
        tokens = sum(len(datum.tokens) for datum in request.batch)
        return StepResult(loss=weighted / total, tokens=tokens, metrics={"grad_norm": norm})

    def _save(self, save: _Save, step: int) -> SaveResult | Exception:
        try:
            info = self._checkpoints.info(save.path)
        except NotFound:
            self._checkpoints.save(save.path, self._run.model, step=step, ttl_s=save.ttl_s)
            return SaveResult(str(save.path))
        if info.step != step:
            return NameTaken(f"{save.path} holds step {info.step}, not {step}", backend="fake")
        return SaveResult(str(save.path), adopted=True)


def _check_batch(request: StepRequest) -> None:
    if request.loss_fn != "cross_entropy":
        raise InvalidRequest.of("loss_fn", request.loss_fn, "the fake backend knows cross_entropy", backend="fake")
    if not request.batch:
        raise InvalidRequest.of("batch", [], "at least one example is needed", backend="fake")
    for index, datum in enumerate(request.batch):
        _check_datum(datum, f"batch[{index}]")
    if math.fsum(float(w) for datum in request.batch for w in datum.loss_inputs["weights"]) == 0.0:
        raise InvalidRequest.of("batch", "the weights add up to 0", "some token must be trained", backend="fake")


def _check_datum(datum: Datum, place: str) -> None:
    inputs: Mapping[str, Sequence[Any]] = datum.loss_inputs
    for name in ("target_tokens", "weights"):
        values = inputs.get(name, ())
        if len(values) != len(datum.tokens) or not len(datum.tokens):
            raise InvalidRequest.of(
                f"{place}.{name}", f"{len(values)} values", f"one for each of {len(datum.tokens)} tokens",
                backend="fake",
            )  # fmt: skip
    if not all(math.isfinite(weight) for weight in inputs["weights"]):
        raise InvalidRequest.of(f"{place}.weights", "NaN or infinity", "finite numbers", backend="fake")
    for name, values in (("tokens", datum.tokens), ("target_tokens", inputs["target_tokens"])):
        wrong = next((value for value in values if not 0 <= value < 320), None)
        if wrong is not None:
            raise InvalidRequest.of(f"{place}.{name}", wrong, "token ids from 0 to 319", backend="fake")


def _spec(spec: RunSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def _corrupted(run_id: str) -> RunCorrupted:
    return RunCorrupted(f"run {run_id} is corrupted", backend="fake", details={"run_id": run_id})
