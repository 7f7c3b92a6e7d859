"""The records of a journal, and the snapshot that a new owner loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import Field

from crucible.training import Intent, RunRef
from crucible.values.record import Record
from crucible.values.scalars import Count, Instant, Int64


class ResumeMode(StrEnum):
    """The way in which a remote run obtained the job's state.

    ``fresh``: new, at step 0. ``restarted``: new, at step 0, because no checkpoint was usable: the steps of the
    earlier runs are lost. ``warm``: the same live model, taken over. ``exact``: restored, and proven equal by
    the repeated steps. ``unverified``: restored, with too few repeated steps to compare. ``cold``: restored, but
    the repeated steps differ: the optimizer state, or even the weights, were not restored.
    """

    FRESH = "fresh"
    RESTARTED = "restarted"
    WARM = "warm"
    EXACT = "exact"
    UNVERIFIED = "unverified"
    COLD = "cold"


class RemoteRun(Record):
    """A remote run in the lineage of a job. ``generation`` counts from 1; ``from_step`` is the number of optimizer
    steps in its initial state; ``first_seq_id`` is the first sequence number of the driver's own operations (a
    backend may have used some for a restore or for feature detection). ``lost_steps`` is the number of recorded
    steps that it has to repeat; ``restart_reason`` says why a restart had no usable checkpoint."""

    generation: Count = Field(ge=1)
    ref: RunRef
    from_step: Count
    resume: ResumeMode
    restored_from: str | None = None
    end_reason: str | None = None
    first_seq_id: Count = 1
    lost_steps: Count = 0
    restart_reason: str | None = None


class StepRecord(Record):
    """A recorded optimizer step. ``loss`` is the weighted mean in nats per token; ``epoch`` is the pass over the
    data, from 0."""

    step: Count = Field(ge=1)
    epoch: Count
    loss: float
    tokens: Count
    learning_rate: float
    generation: Count = Field(ge=1)
    metrics: dict[str, float] = Field(default_factory=dict)
    recorded_at: Instant | None = None


class EvaluationRecord(Record):
    """A recorded evaluation of the weights after ``step`` optimizer steps. ``metrics`` contains ``eval.loss``, in
    nats per token of an ordinary run, or of reinforcement learning ``eval.reward``, unless all rollouts failed;
    ``rows`` and ``tokens`` are those that were evaluated: examples, or rollouts and what was sampled in them."""

    step: Count
    generation: Count = Field(ge=1)
    metrics: dict[str, float]
    rows: Count
    tokens: Count
    recorded_at: Instant | None = None


class SinkMark(Record):
    """The progress of a sink of a job: in its ``segment`` it has the steps up to ``step``, and the evaluations up
    to that of step ``evaluated``, of runs up to ``generation``. The segment began after ``from_step``."""

    segment: Count = Field(default=1, ge=1)
    generation: Count = 0
    from_step: Count = 0
    resume: ResumeMode = ResumeMode.FRESH
    step: Count = 0
    evaluated: Int64 = Field(default=-1, ge=-1)


class CheckpointStatus(StrEnum):
    """State of a checkpoint. Pending: the save may be in flight. Committed: verified, usable by a recovery. Lost:
    it failed verification."""

    PENDING = "pending"
    COMMITTED = "committed"
    DELETING = "deleting"
    DELETED = "deleted"
    LOST = "lost"


class CheckpointRecord(Record):
    """A checkpoint of a job. ``name`` contains the generation."""

    name: str
    step: Count
    generation: Count = Field(ge=1)
    status: CheckpointStatus = CheckpointStatus.PENDING
    path: str | None = None
    sampler_path: str | None = None
    metric: float | None = None
    promoted: bool = False
    final: bool = False
    size_bytes: Count | None = None
    created_at: Instant | None = None
    expires_at: Instant | None = None
    note: str | None = None

    @property
    def kept(self) -> bool:
        """The checkpoint is committed and not deleted by the policy."""
        return self.status is CheckpointStatus.COMMITTED


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An answer of an inference batch, as compressed JSON, with the ``line`` and the SHA-256 of its prompt."""

    line: int
    prompt_sha256: str
    data: bytes


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """The journal's content at one point, from which a new owner continues.

    ``steps`` are the current steps (not superseded), in order, without gaps. ``superseded`` maps a step
    number to its newest superseded record, which a repeated step is compared with. ``open_intents`` are the
    operations of the newest run without a recorded result, by sequence number, and ``last_closed`` is the one
    before them: results are recorded in order, so a recorded result closes every earlier intent. ``last_seq_id`` is
    the highest sequence number journaled for the newest run, open or closed. Both are None before the first.
    ``evaluations`` are the current ones, in order; ``superseded_evaluations`` has the newest superseded one of each
    step.
    """

    runs: Sequence[RemoteRun]
    steps: Sequence[StepRecord]
    superseded: dict[int, StepRecord]
    open_intents: Sequence[Intent]
    checkpoints: Sequence[CheckpointRecord]
    last_seq_id: int | None = None
    last_closed: Intent | None = None
    evaluations: Sequence[EvaluationRecord] = ()
    superseded_evaluations: Mapping[int, EvaluationRecord] = field(default_factory=dict)

    @property
    def run(self) -> RemoteRun | None:
        """The newest remote run."""
        return self.runs[-1] if self.runs else None

    @property
    def last_step(self) -> int:
        """The newest current step; before the first, that in which the job began: 0, or of a continued run."""
        return self.steps[-1].step if self.steps else self.first_step

    @property
    def first_step(self) -> int:
        """The number of steps in the state with which the job began: 0, unless it continues another."""
        return self.runs[0].from_step if self.runs else 0


@dataclass(frozen=True, slots=True)
class SinkState:
    """The mark of a sink, the job's runs, and the number of steps that each generation has recorded, superseded
    ones included."""

    mark: SinkMark
    runs: Sequence[RemoteRun]
    recorded: Mapping[int, int]
