"""The state of a training run while this process drives it: what is fixed, what moves, and what is under way."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from crucible.backend import TrainingBackend
from crucible.training import IntentKind, LiveRun, RunSpec
from nsai_work.clock import Clock
from nsai_work.interruptible import Waiter
from nsai_work.journal import (
    CheckpointRecord,
    CheckpointStatus,
    Journal,
    JournalSnapshot,
    RemoteRun,
    StepRecord,
)
from nsai_work.payloads import TrainingStep
from nsai_work.policies import CheckpointStrategy
from nsai_work.training.datums import Datums
from nsai_work.training.in_flight import InFlight
from nsai_work.training.lineage import counts
from nsai_work.training.operations import Agenda, Metrics
from nsai_work.training.plan import Plan
from nsai_work.training.sender import Sender


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that stays the same while a job is trained."""

    job_id: str
    payload: TrainingStep
    spec: RunSpec
    plan: Plan
    datums: Datums
    backend: TrainingBackend
    journal: Journal
    clock: Clock
    wait: Waiter
    sleep: Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Progress:
    """What is recorded so far, as far as going on needs it. ``furthest`` is the newest step that was ever recorded,
    superseded or not; ``checkpoints`` holds those of the line that counts."""

    last: StepRecord | None
    furthest: int
    checkpoints: dict[str, CheckpointRecord]

    @classmethod
    def of(cls, snapshot: JournalSnapshot) -> "Progress":
        """The progress that a journal shows."""
        return cls(
            last=snapshot.steps[-1] if snapshot.steps else None,
            furthest=max(snapshot.last_step, max(snapshot.superseded, default=0)),
            checkpoints={
                checkpoint.name: checkpoint
                for checkpoint in snapshot.checkpoints
                if counts(checkpoint, snapshot.runs, snapshot.last_step)
            },
        )

    @property
    def last_step(self) -> int:
        """The newest step that counts."""
        return self.last.step if self.last else 0

    def advance(self, record: StepRecord) -> None:
        """A step is recorded."""
        self.last = record
        self.furthest = max(self.furthest, record.step)


@dataclass(slots=True)
class Live:
    """A remote run that this process drives."""

    run: LiveRun
    record: RemoteRun
    progress: Progress
    agenda: Agenda
    superseded: dict[int, StepRecord]
    suspect: frozenset[int] = frozenset()
    repeated: dict[int, StepRecord] = field(default_factory=dict)
    in_flight: deque[InFlight] = field(default_factory=deque)
    sender: Sender = field(init=False)
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=16))
    """When the newest results came, and how many tokens each had."""

    def __post_init__(self) -> None:
        self.sender = Sender(self.run, self.in_flight)

    @property
    def steps_in_flight(self) -> int:
        """Optimizer steps under way at the service."""
        return sum(entry.operation.kind is IntentKind.STEP for entry in self.in_flight)

    @property
    def effect_unknown(self) -> bool:
        """Whether something may have been sent whose acceptance was not seen."""
        return any(entry.unsent for entry in self.in_flight)

    def send_again(self) -> None:
        """Let everything under way be sent once more, under its own sequence numbers."""
        for entry in self.in_flight:
            entry.pending = None

    def tokens_per_s(self, now: float, tokens: int) -> float | None:
        """The rate over the newest results; None before the second."""
        self.marks.append((now, tokens))
        elapsed = now - self.marks[0][0]
        counted = sum(count for _, count in list(self.marks)[1:])
        return counted / elapsed if elapsed > 0 else None


def metric_of(assignment: Assignment, record: StepRecord | None) -> float | None:
    """The metric by which the checkpoint policy compares, at a step."""
    if record is None:
        return None
    name = assignment.payload.checkpoint_policy.best_metric
    return record.loss if name == "loss" else record.metrics.get(name)


def known_metrics(assignment: Assignment, live: Live) -> Metrics:
    """What the agenda may know of the metric."""
    policy, progress = assignment.payload.checkpoint_policy, live.progress
    best: float | None = None
    if policy.strategy is CheckpointStrategy.BEST:  # nothing else asks for it
        for checkpoint in progress.checkpoints.values():
            verified = checkpoint.status not in (CheckpointStatus.PENDING, CheckpointStatus.LOST)
            if verified and policy.is_better(checkpoint.metric, best):
                best = checkpoint.metric
    return Metrics(progress.last_step, metric_of(assignment, progress.last), best)


def expiry(assignment: Assignment, *, final: bool) -> tuple[int | None, timedelta | None]:
    """How long a checkpoint may live at the service: the final one for good."""
    ttl_s = None if final else assignment.payload.checkpoint_policy.ttl
    return ttl_s, None if ttl_s is None else timedelta(seconds=ttl_s)
