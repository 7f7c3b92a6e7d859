"""State of a training run in the driving process: the fixed assignment, the progress, the operations in flight."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from crucible.backend import TrainingBackend
from crucible.training import ForwardResult, Intent, IntentKind, LiveRun, RunSpec
from nsai_work.clock import Clock
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.journal import (
    CheckpointRecord,
    EvaluationRecord,
    Journal,
    JournalSnapshot,
    RemoteRun,
    StepRecord,
)
from nsai_work.payloads import TrainingStep
from nsai_work.policies import LOSS
from nsai_work.training.evaluation import EvaluationSource, PassResult, TaskEvaluation
from nsai_work.training.in_flight import InFlight
from nsai_work.training.objectives import Objective
from nsai_work.training.operations import OperationSequence
from nsai_work.training.plan import Plan
from nsai_work.training.restart.lineage import is_current
from nsai_work.training.sender import Sender
from nsai_work.training.sources.batches import Lookahead, StepBatch
from nsai_work.training.sources.preference import ReferenceSource

SAMPLER_TTL_S: Final = 7 * 24 * 3600
"""The time to live of sampling weights that are saved in the middle of a run, in seconds."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The inputs of a training job that stay fixed for one attempt."""

    job_id: str
    payload: TrainingStep
    spec: RunSpec
    plan: Plan
    batches: Lookahead
    objective: Objective | None
    evaluation: EvaluationSource | None
    tasks: TaskEvaluation | None
    reference: ReferenceSource | None
    backend: TrainingBackend
    journal: Journal
    clock: Clock
    wait: InterruptibleAwaiter
    sleep: Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Progress:
    """The recorded progress of a job. ``furthest`` is the highest step ever recorded, superseded or not;
    ``checkpoints`` maps names to the checkpoints, and ``evaluations`` are those, that are not superseded."""

    last: StepRecord | None
    furthest: int
    checkpoints: dict[str, CheckpointRecord]
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    first: int = 0
    """The number of steps with which the job began."""

    @classmethod
    def of(cls, snapshot: JournalSnapshot) -> "Progress":
        """Return the progress recorded in a journal."""
        return cls(
            last=snapshot.steps[-1] if snapshot.steps else None,
            furthest=max(snapshot.last_step, max(snapshot.superseded, default=0)),
            checkpoints={
                checkpoint.name: checkpoint
                for checkpoint in snapshot.checkpoints
                if is_current(checkpoint, snapshot.runs, snapshot.last_step)
            },
            evaluations=list(snapshot.evaluations),
            first=snapshot.first_step,
        )

    @property
    def last_step(self) -> int:
        """The newest step that is not superseded; before the first, that in which the job began."""
        return self.last.step if self.last else self.first

    def advance(self, record: StepRecord) -> None:
        """Account for a recorded step."""
        self.last = record
        self.furthest = max(self.furthest, record.step)


@dataclass(slots=True)
class ActiveRun:
    """A remote run that this process drives, with its pending operations and its evidence for the resume proof."""

    run: LiveRun
    record: RemoteRun
    progress: Progress
    operations: OperationSequence
    superseded: dict[int, StepRecord]
    suspect: frozenset[int] = frozenset()
    repeated: dict[int, StepRecord] = field(default_factory=dict)
    in_flight: deque[InFlight] = field(default_factory=deque)
    expected: deque[Intent] = field(default_factory=deque)
    """The open intents of an earlier owner, which the next operations must repeat."""
    forwards: dict[int, tuple[StepBatch, ForwardResult]] = field(default_factory=dict)
    """The finished forward passes by step, until their step is prepared. Their intents stay open until then."""
    scores: dict[int, PassResult] = field(default_factory=dict)
    """The finished passes of the evaluation that is under way, by number. Their intents stay open until all are."""
    superseded_evaluations: Mapping[int, EvaluationRecord] = field(default_factory=dict)
    sender: Sender = field(init=False)
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=16))
    """Arrival time and token count of the newest results."""

    def __post_init__(self) -> None:
        self.sender = Sender(self.run, self.in_flight)

    @property
    def steps_in_flight(self) -> int:
        """The number of optimizer steps in flight."""
        return sum(entry.operation.kind is IntentKind.STEP for entry in self.in_flight)

    @property
    def effect_unknown(self) -> bool:
        """An operation may have been sent without its acceptance being observed."""
        return any(entry.unsent for entry in self.in_flight)

    def send_again(self) -> None:
        """Mark every operation in flight for sending again, with its own sequence numbers."""
        for entry in self.in_flight:
            entry.pending = None

    def tokens_per_s(self, now: float, tokens: int) -> float | None:
        """Return the token rate over the newest results; None before the second."""
        self.marks.append((now, tokens))
        elapsed = now - self.marks[0][0]
        counted = sum(count for _, count in list(self.marks)[1:])
        return counted / elapsed if elapsed > 0 else None


def metric_of(assignment: Assignment, progress: Progress) -> float | None:
    """Return the newest step's value of the metric that the checkpoint policy compares."""
    if progress.last is None:
        return None
    name = assignment.payload.checkpoint_policy.best_metric
    if assignment.payload.is_best_by_evaluation:
        newest = progress.evaluations[-1] if progress.evaluations else None
        return newest.metrics.get(name) if newest is not None and newest.step == progress.last_step else None
    return progress.last.loss if name == LOSS else progress.last.metrics.get(name)


def expiry(assignment: Assignment, *, final: bool) -> int | None:
    """Return a checkpoint's time to live in seconds; None for the final one, which never expires."""
    return None if final else assignment.payload.checkpoint_policy.ttl
