"""Training runs in this process; a repeated operation is answered from a run's record."""

import asyncio
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from backends.local.checkpoints import CheckpointPath, CheckpointStore
from backends.local.engine import Engine
from crucible.errors import (
    AnswerLost,
    BackendError,
    CrucibleError,
    InvalidRequest,
    NameTaken,
    NotFound,
    RunCorrupted,
    RunGone,
    Unsupported,
)
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
    RunState,
    SaveResult,
    StepRequest,
    StepResult,
)
from crucible.values.digest import forward_digest, save_digest, step_digest

T = TypeVar("T")


REMEMBERED_STEPS: Final = 128
"""The number of a run's newest steps from which on its operations are on record: twice what a driver may have open.
The log-probabilities of a step may take megabytes."""


@dataclass(slots=True)
class HostedRun:
    """The service's side of a run: the engine, and a record of its newest operations by first sequence number."""

    run_id: str
    backend: str
    engine: Engine
    drivers: int = 0
    _record: dict[int, tuple[str, "Future[Any]"]] = field(default_factory=dict)
    _steps: deque[int] = field(default_factory=deque)
    _forgotten: int = 0

    def recorded(self, intent: Intent) -> "Future[Any] | None":
        """Return the outcome of an operation; None if it is new.

        Raises:
            InvalidRequest: its number was used for another one.
            AnswerLost: it is too old to be on record.
        """
        found = self._record.get(intent.first_seq_id)
        if found is None and intent.first_seq_id < self._forgotten:
            text = f"operation {intent.first_seq_id} of run {self.run_id} is no longer on record"
            raise AnswerLost(text, backend=self.backend)
        if found is not None and found[0] != intent.digest:
            allowed = "it was used for another request already"
            raise InvalidRequest.of("seq_id", intent.first_seq_id, allowed, backend=self.backend)
        return None if found is None else found[1]

    def keep(self, intent: Intent, outcome: "Future[Any]") -> None:
        """Put an operation on record, and forget those that no driver can have open."""
        self._record[intent.first_seq_id] = (intent.digest, outcome)
        if intent.kind is IntentKind.STEP:
            self._steps.append(intent.first_seq_id)
        if len(self._steps) > REMEMBERED_STEPS:
            self._forgotten = self._steps.popleft()
            for seq_id in [known for known in self._record if known < self._forgotten]:
                del self._record[seq_id]


class HostedRuns:
    """The runs of this process. Of those without a driver, only the newest ``max_idle`` are retained."""

    def __init__(self, max_idle: int = 16) -> None:
        self._max_idle = max_idle
        self._runs: OrderedDict[str, HostedRun] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, engine: Engine, backend: str) -> HostedRun:
        """Add a run of an engine."""
        run = HostedRun(f"{backend}-{uuid.uuid4().hex[:16]}", backend, engine)
        with self._lock:
            idle = [run_id for run_id, known in self._runs.items() if known.drivers == 0]
            for run_id in idle[: -self._max_idle]:
                del self._runs[run_id]
            self._runs[run.run_id] = run
        return run

    def get(self, run_id: str) -> HostedRun | None:
        """The run of that id, or None if there is none any more."""
        with self._lock:
            return self._runs.get(run_id)

    def drop(self, run_id: str) -> None:
        """Remove a run; its checkpoints stay."""
        with self._lock:
            self._runs.pop(run_id, None)


HOSTED_RUNS: Final = HostedRuns()
"""In place of a service: shared by all backends of the process, so that one attaches to the runs of another."""


@dataclass(frozen=True, slots=True)
class _Accepted(Pending[T], Generic[T]):
    """A queued operation, whose outcome is returned after a delay."""

    outcome: "Future[T]"
    delay_s: float

    async def result(self) -> T:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        # canceling the wait does not cancel the operation
        return await asyncio.shield(asyncio.wrap_future(self.outcome))


@dataclass(frozen=True, slots=True)
class _ForwardRequest:
    batch: Sequence[Datum]


@dataclass(frozen=True, slots=True)
class _SaveRequest:
    path: CheckpointPath
    ttl_s: int | None


class LocalRun(LiveRun):
    """Drives a ``HostedRun``.

    With an ``executor`` (of one thread) operations run there, in order; without one, ``send`` runs them.
    """

    def __init__(
        self,
        run: HostedRun,
        store: CheckpointStore[Any],
        *,
        features: RunFeatures,
        next_seq_id: int = 1,
        delay_s: float = 0.0,
        executor: Executor | None = None,
        open_sampler: Callable[[str], Awaitable[TokenSampler]] | None = None,
    ) -> None:
        self._run = run
        self._open_sampler = open_sampler
        self._store = store
        self._features = features
        self._next_seq_id = next_seq_id
        self._delay_s = delay_s
        self._executor = executor
        self._open = True
        run.drivers += 1

    @property
    def ref(self) -> RunRef:
        return RunRef(backend=self._store.scheme, run_id=self._run.run_id)

    @property
    def features(self) -> RunFeatures:
        return self._features

    @property
    def next_seq_id(self) -> int:
        return self._next_seq_id

    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        self._run.engine.check(request)
        return Prepared(self._intent(IntentKind.STEP, 2, request.step, step_digest(request)), request)

    def prepare_forward(
        self, batch: Sequence[Datum], *, step: int, name: str | None = None
    ) -> Prepared[ForwardResult]:
        self._run.engine.check_forward(batch)
        digest = forward_digest(batch, step, name)
        return Prepared(self._intent(IntentKind.FORWARD, 1, step, digest, name), _ForwardRequest(batch))

    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        path = CheckpointPath.of_save(self._store.scheme, self._run.run_id, kind, name)
        digest = save_digest(kind, name, step, ttl_s)
        return Prepared(self._intent(kind, 1, step, digest, name), _SaveRequest(path, ttl_s))

    async def sampler(
        self, path: str, *, ref: SamplerRef | None = None, record_sequences: bool = False
    ) -> TokenSampler:
        del ref
        if record_sequences or self._open_sampler is None:
            raise Unsupported(
                "record_sequences: this backend records no sequences for training", backend=self._store.scheme
            )
        return await self._open_sampler(path)

    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        if HOSTED_RUNS.get(self._run.run_id) is None:
            raise RunGone(f"run {self._run.run_id} was closed", backend=self._store.scheme)
        outcome: Future[Any] | None = self._run.recorded(prepared.intent)
        if outcome is None:
            outcome = self._begin(prepared)
            self._run.keep(prepared.intent, outcome)
        return _Accepted(outcome, self._delay_s)

    async def health(self) -> RunHealth:
        if HOSTED_RUNS.get(self._run.run_id) is None:
            return RunHealth(state=RunState.GONE, reason="the run was closed")
        if self._run.engine.corrupted:
            return RunHealth(state=RunState.CORRUPTED, reason="the run is marked corrupted")
        return RunHealth(state=RunState.ALIVE)

    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        while True:
            if self._run.engine.corrupted:
                return self._corrupted()
            await asyncio.sleep(poll_interval_ms / 1000)

    async def close(self, *, unload: bool = False) -> None:
        if self._open:
            self._open = False
            self._run.drivers -= 1
        if unload:
            HOSTED_RUNS.drop(self._run.run_id)

    def weights_digest(self) -> str:
        """A hash of the trained weights."""
        return self._run.engine.digest()

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

    def _begin(self, prepared: Prepared[Any]) -> "Future[Any]":
        body, step = prepared.body, prepared.intent.step
        if isinstance(body, StepRequest):
            return self._compute(lambda: self._run.engine.train(body))
        if isinstance(body, _ForwardRequest):
            return self._compute(lambda: self._run.engine.forward(body.batch))
        if isinstance(body, _SaveRequest):
            return self._compute(lambda: self._save(body, step))
        raise InvalidRequest.of("prepared.body", type(body).__name__, "it must come from prepare_*")

    def _compute(self, work: Callable[[], T]) -> "Future[T]":
        def guarded() -> T:
            if self._run.engine.corrupted:
                raise self._corrupted()
            try:
                return work()
            except CrucibleError:
                raise
            except Exception as exc:
                raise BackendError(f"the operation failed: {exc!r}", backend=self._store.scheme) from exc

        if self._executor is not None:
            return self._executor.submit(guarded)
        done: Future[T] = Future()
        try:
            done.set_result(guarded())
        except CrucibleError as exc:
            done.set_exception(exc)
        return done

    def _save(self, save: _SaveRequest, step: int) -> SaveResult:
        try:
            info = self._store.info(save.path)
        except NotFound:
            self._store.delete(save.path)
            self._store.save(save.path, self._run.engine, step=step, ttl_s=save.ttl_s)
            return SaveResult(str(save.path))
        if info.step != step:
            raise NameTaken(f"{save.path} holds step {info.step}, not {step}", backend=self._store.scheme)
        return SaveResult(str(save.path), adopted=True)

    def _corrupted(self) -> RunCorrupted:
        return RunCorrupted(
            f"run {self._run.run_id} is corrupted",
            backend=self._store.scheme,
            details={"run_id": self._run.run_id},
        )
