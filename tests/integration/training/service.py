"""A training service in memory, exact to the bit, whose misbehaviour a test can script.

It trains a tiny model with Adam in plain floats, keeps its runs and checkpoints across backends (as a real service
does across clients), and logs every optimizer step that it really applied.
"""

import asyncio
import hashlib
import json
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from crucible import Capabilities, Completion, Prompt
from crucible.backend import Health, TrainingBackend
from crucible.errors import InvalidRequest, NoCheckpoint, RunCorrupted, RunGone, Unsupported
from crucible.recovery import RecoveredRun, RecoveryEvent, RecoveryObserver, RecoveryRequest, in_order
from crucible.rendering.tokenizer import ByteTokenizer, Tokenizer
from crucible.stream import StreamEvent
from crucible.training import (
    CheckpointCheck,
    Datum,
    ForwardResult,
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

T = TypeVar("T")
SIZE = 6


@dataclass
class Model:
    """Weights and the optimizer's state."""

    weights: list[float]
    first: list[float] = field(default_factory=lambda: [0.0] * SIZE)
    second: list[float] = field(default_factory=lambda: [0.0] * SIZE)
    updates: int = 0

    @classmethod
    def new(cls, seed: int) -> "Model":
        """A model that its seed determines."""
        return cls([hashlib.sha256(f"{seed}:{place}".encode()).digest()[0] / 255 for place in range(SIZE)])

    def copy(self, *, optimizer: bool = True) -> "Model":
        """The same state, with or without the optimizer's."""
        if not optimizer:
            return Model([*self.weights])
        return Model([*self.weights], [*self.first], [*self.second], self.updates)

    def step(self, batch: "tuple[Datum, ...]", optimizer: OptimizerSpec) -> float:
        """One update; the loss is that before it."""
        loss, gradient = 0.0, [0.0] * SIZE
        for datum in batch:
            inputs = [math.fsum(datum.tokens[place::SIZE]) / 1000 for place in range(SIZE)]
            wanted = math.fsum(datum.loss_inputs["weights"]) / 100
            error = math.fsum(w * x for w, x in zip(self.weights, inputs, strict=True)) - wanted
            loss += error * error / len(batch)
            gradient = [g + 2 * error * x / len(batch) for g, x in zip(gradient, inputs, strict=True)]
        self._adam(gradient, optimizer)
        return loss

    def logprobs(self, datum: Datum) -> list[float]:
        """A log-probability of each token, which the weights determine."""
        return [-abs(self.weights[token % SIZE]) for token in datum.tokens]

    def _adam(self, gradient: list[float], optimizer: OptimizerSpec) -> None:
        self.updates += 1
        one, two = optimizer.beta1, optimizer.beta2
        self.first = [one * m + (1 - one) * g for m, g in zip(self.first, gradient, strict=True)]
        self.second = [two * v + (1 - two) * g * g for v, g in zip(self.second, gradient, strict=True)]
        for place in range(SIZE):
            mean = self.first[place] / (1 - one**self.updates)
            spread = self.second[place] / (1 - two**self.updates)
            self.weights[place] -= optimizer.learning_rate * mean / (math.sqrt(spread) + optimizer.eps)


@dataclass
class Run:
    """A remote run as the service holds it."""

    run_id: str
    model: Model
    alive: bool = True
    corrupted: bool = False
    record: dict[int, tuple[str, Any]] = field(default_factory=dict)
    applied: list[int] = field(default_factory=list)
    next_seq_id: int = 1
    held: "dict[int, tuple[Prepared[Any], asyncio.Future[Any]]]" = field(default_factory=dict)
    """With ``orders``: what has arrived before its turn, by its first number."""
    freed: dict[int, int] = field(default_factory=dict)
    """Numbers that a refused operation has freed, by the first."""


@dataclass
class Saved:
    """A checkpoint as the service holds it."""

    model: Model
    step: int
    usable: bool = True


class Service:
    """What stays when clients come and go. ``hook(event, details)`` sees every call, and may raise."""

    def __init__(
        self,
        *,
        replays: bool | None = True,
        orders: bool | None = None,
        restores_optimizer: bool = True,
        attachable: bool = True,
        seed: int = 0,
    ):
        self.features = RunFeatures(replays=replays, orders=orders)
        self.rng = random.Random(seed)
        self.most_in_transit = self.in_transit = 0
        self.restores_optimizer = restores_optimizer
        self.attachable = attachable
        self.runs: dict[str, Run] = {}
        self.saved: dict[str, Saved] = {}
        self.most_saved = 0
        self.hook: Callable[[str, dict[str, Any]], None] = lambda event, details: None

    def new_run(self, model: Model) -> Run:
        """A run in the given state. Its first sequence number is not 1: a client may have spent some."""
        run = Run(f"run-{len(self.runs) + 1}", model, next_seq_id=len(self.runs) % 3 + 1)
        self.runs[run.run_id] = run
        return run

    @property
    def newest(self) -> Run:
        """The run made last."""
        return list(self.runs.values())[-1]


@dataclass
class ServicePending(Pending[T]):
    """The outcome, told after one turn of the loop."""

    service: Service
    run: Run
    intent: Intent
    outcome: Any

    async def result(self) -> T:
        await asyncio.sleep(0)
        self.service.hook("result", {"intent": self.intent, "run": self.run})
        if self.run.corrupted:
            raise RunCorrupted(f"{self.run.run_id} is corrupted")
        if not self.run.alive:
            raise RunGone(f"{self.run.run_id} is gone")
        outcome = await asyncio.shield(self.outcome) if isinstance(self.outcome, asyncio.Future) else self.outcome
        if isinstance(outcome, Exception):
            raise outcome
        result: T = outcome
        return result


class ServiceRun(LiveRun):
    """A client's hold of a run."""

    def __init__(self, service: Service, run: Run, next_seq_id: int) -> None:
        self._service = service
        self.remote = run
        self._next = next_seq_id

    @property
    def ref(self) -> RunRef:
        return RunRef(backend="service", run_id=self.remote.run_id)

    @property
    def features(self) -> RunFeatures:
        return self._service.features

    @property
    def next_seq_id(self) -> int:
        return self._next

    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        body = [
            request.step,
            request.loss_fn,
            request.optimizer.model_dump(),
            [[list(datum.tokens), [[*datum.loss_inputs[name]] for name in sorted(datum.loss_inputs)]]
             for datum in request.batch],
        ]  # fmt: skip
        return Prepared(self._intent(IntentKind.STEP, 2, request.step, body, None), request)

    def prepare_forward(
        self, batch: Sequence[Datum], *, step: int, name: str | None = None
    ) -> Prepared[ForwardResult]:
        body = [step, name, [[*map(int, datum.tokens)] for datum in batch]]
        return Prepared(self._intent(IntentKind.FORWARD, 1, step, body, name), tuple(batch))

    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        return Prepared(self._intent(kind, 1, step, [name, kind, step], name), None)

    def _intent(self, kind: IntentKind, count: int, step: int, body: object, name: str | None) -> Intent:
        first, self._next = self._next, self._next + count
        return Intent(
            kind=kind,
            run_id=self.remote.run_id,
            first_seq_id=first,
            last_seq_id=first + count - 1,
            step=step,
            digest=hashlib.sha256(json.dumps(body).encode()).hexdigest(),
            name=name,
        )

    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        intent = prepared.intent
        self._service.hook("send", {"intent": intent, "run": self.remote})
        await self._travel()
        if not self.remote.alive:
            raise RunGone(f"{self.remote.run_id} is gone")
        outcome = self._arrived(prepared) if self._service.features.sends_ahead else self._outcome(prepared)
        self._service.hook("sent", {"intent": intent, "run": self.remote})
        await self._travel()
        return ServicePending(self._service, self.remote, intent, outcome)

    async def _travel(self) -> None:
        """Each message takes a time of its own, so that they overtake each other."""
        service = self._service
        service.in_transit += 1
        service.most_in_transit = max(service.most_in_transit, service.in_transit)
        try:
            for _ in range(service.rng.randint(1, 12) if service.features.sends_ahead else 1):
                await asyncio.sleep(0)
        finally:
            service.in_transit -= 1

    def _arrived(self, prepared: Prepared[Any]) -> object:
        """Hold an operation until those before it are there, then run all whose turn it is."""
        remote, intent = self.remote, prepared.intent
        self._pass_freed()
        if intent.first_seq_id in remote.record:
            return self._outcome(prepared)
        if intent.first_seq_id not in remote.held:
            remote.held[intent.first_seq_id] = (prepared, asyncio.get_running_loop().create_future())
        first, result = remote.held[intent.first_seq_id]
        assert first.intent == intent, "one number, two requests"
        if remote.freed.get(intent.first_seq_id, 0) == remote.next_seq_id:
            remote.next_seq_id = intent.first_seq_id
            del remote.freed[intent.first_seq_id]
        while remote.next_seq_id in remote.held:
            ready, waiting = remote.held.pop(remote.next_seq_id)
            waiting.set_result(self._outcome(ready))
            self._pass_freed()
        return result

    def _pass_freed(self) -> None:
        while self.remote.next_seq_id in self.remote.freed:
            self.remote.next_seq_id = self.remote.freed[self.remote.next_seq_id]

    def _outcome(self, prepared: Prepared[Any]) -> object:
        intent, record = prepared.intent, self.remote.record
        if self._service.features.replays and intent.first_seq_id in record:
            digest, outcome = record[intent.first_seq_id]
            if digest != intent.digest:
                raise InvalidRequest.of("seq_id", intent.first_seq_id, "it was used for something else")
            return outcome
        if self._service.features.replays:
            assert intent.first_seq_id == self.remote.next_seq_id, "operations must come in order"
        outcome = self._effect(prepared)
        self.remote.next_seq_id = intent.last_seq_id + 1
        record[intent.first_seq_id] = (intent.digest, outcome)
        return outcome

    def _effect(self, prepared: Prepared[Any]) -> object:
        request, intent = prepared.body, prepared.intent
        if isinstance(request, StepRequest):
            loss = self.remote.model.step(tuple(request.batch), request.optimizer)
            self.remote.applied.append(request.step)
            return StepResult(loss, sum(len(datum.tokens) for datum in request.batch), {"loss_sum": loss})
        if intent.kind is IntentKind.FORWARD:
            return ForwardResult([self.remote.model.logprobs(datum) for datum in request])
        folder = "weights" if intent.kind is IntentKind.SAVE_STATE else "sampler_weights"
        path = f"service://{self.remote.run_id}/{folder}/{intent.name}"
        adopted = path in self._service.saved
        if not adopted:
            self._service.saved[path] = Saved(self.remote.model.copy(), intent.step)
        states = sum("/weights/" in saved for saved in self._service.saved)
        self._service.most_saved = max(self._service.most_saved, states)
        return SaveResult(path, adopted)

    async def health(self) -> RunHealth:
        self._service.hook("health", {"run": self.remote})
        await asyncio.sleep(0)
        if self.remote.corrupted:
            return RunHealth(state=RunState.CORRUPTED, reason="flagged")
        return RunHealth(state=RunState.ALIVE if self.remote.alive else RunState.GONE)

    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        while not self.remote.corrupted:  # noqa: ASYNC110 - a poll is what a real client does
            await asyncio.sleep(poll_interval_ms / 1000)
        return RunCorrupted(f"{self.remote.run_id} is corrupted")

    async def close(self, *, unload: bool = False) -> None:
        if unload:
            self.remote.alive = False


class ServiceBackend(TrainingBackend):
    """A client of the service."""

    name: ClassVar[str] = "service"

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service

    async def capabilities(self) -> Capabilities:
        return Capabilities(backend_id="service", provider="tests", supports_training=True, supports_forward=True)

    async def complete(self, prompt: Prompt) -> Completion:
        raise Unsupported("this service only trains")

    def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        raise Unsupported("this service only trains")

    async def health_check(self) -> Health:
        return Health(ok=True)

    async def check_spec(self, spec: RunSpec) -> None:
        return None

    async def tokenizer(self, base_model: str) -> Tokenizer:
        return ByteTokenizer()

    async def start(self, spec: RunSpec) -> LiveRun:
        self.service.hook("start", {})
        await asyncio.sleep(0)
        assert spec.lora.seed is not None
        run = self.service.new_run(Model.new(spec.lora.seed))
        return ServiceRun(self.service, run, run.next_seq_id)

    async def attach(self, ref: RunRef, *, next_seq_id: int) -> LiveRun:
        self.service.hook("attach", {"ref": ref})
        await asyncio.sleep(0)
        run = self.service.runs[ref.run_id]
        if not self.service.attachable:
            raise Unsupported("runs live and die with their process")
        if run.corrupted:
            raise RunCorrupted(f"{run.run_id} is corrupted")
        if not run.alive:
            raise RunGone(f"{run.run_id} is gone")
        return ServiceRun(self.service, run, next_seq_id)

    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        self.service.hook("recover", {"request": request})
        for candidate in in_order(request.policy.checkpoint_strategy, request.candidates):
            saved = self.service.saved.get(candidate.path)
            if saved is None or not saved.usable:
                details = {"path": candidate.path, "reason": "not usable"}
                name = "service.recovery.checkpoint_rejected"
                told = observe(RecoveryEvent(name=name, run_id=request.failed.run_id, details=details))
                assert told is not None
                await told
                continue
            optimizer = request.policy.restore_optimizer and self.service.restores_optimizer
            run = self.service.new_run(saved.model.copy(optimizer=optimizer))
            live = ServiceRun(self.service, run, run.next_seq_id)
            return RecoveredRun(live, candidate, request.policy.restore_optimizer)
        raise NoCheckpoint("no checkpoint is usable")

    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        self.service.hook("check", {"path": path})
        await asyncio.sleep(0)
        saved = self.service.saved.get(path)
        usable = saved is not None and saved.usable
        return CheckpointCheck(path=path, usable=usable, reason=None if usable else "broken", size_bytes=100)

    async def delete_checkpoint(self, path: str) -> None:
        self.service.hook("delete", {"path": path})
        await asyncio.sleep(0)
        self.service.saved.pop(path, None)
