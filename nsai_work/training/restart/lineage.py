"""Queries over the lineage of a job's remote runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from crucible.errors import CrucibleError
from crucible.training import CheckpointRef
from nsai_work.journal import CheckpointRecord, CheckpointStatus, JournalSnapshot, RemoteRun, ResumeMode
from nsai_work.policies import CheckpointPolicy

POISONED: Final = "run_corrupted"
FLAGGED: Final = "run_flagged"
"""As ``POISONED``, but known only from the service's mark: results before the mark may come from corrupted
weights."""
SKIPPED: Final = "skipped"
"""The metric that marks the record of a skipped step."""


@dataclass(frozen=True, slots=True)
class EndReason:
    """The reason for the fencing of a remote run: the error's code and message, and the next step at that time."""

    code: str
    step: int
    message: str

    def __str__(self) -> str:
        return f"{self.code} at step {self.step}: {self.message}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a run's ``end_reason``. Returns None for any other text."""
        match = re.fullmatch(r"(\w+) at step (\d+): (.*)", text, re.DOTALL)
        return cls(match[1], int(match[2]), match[3]) if match else None


def times_poisoned(runs: Sequence[RemoteRun], step: int) -> int:
    """Count the runs that were corrupted when ``step`` was next."""
    reasons = (EndReason.parse(run.end_reason) for run in runs if run.end_reason is not None)
    poisoned = (reason for reason in reasons if reason is not None and reason.code in (POISONED, FLAGGED))
    return sum(reason.step == step for reason in poisoned)


def end_code(error: CrucibleError, *, poisoned: bool) -> str:
    """Return the code to fence a run with that ended with ``error``."""
    if not poisoned:
        return error.code
    return FLAGGED if error.details.get("detected_by") == "flag" else POISONED


def suspect_generations(runs: Sequence[RemoteRun]) -> frozenset[int]:
    """Return the generations whose last steps may come from weights that were corrupted before the service said
    so."""
    reasons = {run.generation: EndReason.parse(run.end_reason) for run in runs if run.end_reason is not None}
    return frozenset(
        generation for generation, reason in reasons.items() if reason is not None and reason.code == FLAGGED
    )


def skipped_steps(runs: Sequence[RemoteRun], *, skip_batch: bool) -> frozenset[int]:
    """Return the steps that corrupted two runs and are skipped by policy. Only the lineage decides, so every owner
    skips the same steps."""
    if not skip_batch:
        return frozenset()
    reasons = [EndReason.parse(run.end_reason) for run in runs if run.end_reason is not None]
    steps = {reason.step for reason in reasons if reason is not None}
    return frozenset(step for step in steps if times_poisoned(runs, step) >= 2)


def is_current(checkpoint: CheckpointRecord, runs: Sequence[RemoteRun], last_step: int) -> bool:
    """Return whether a checkpoint's steps are current: no later run restarted from before it."""
    later = (run for run in runs if run.generation > checkpoint.generation)
    return checkpoint.step <= min((run.from_step for run in later), default=last_step)


def candidates(snapshot: JournalSnapshot) -> tuple[CheckpointRecord, ...]:
    """Return the checkpoints that a recovery may restore, newest first."""
    usable = [
        checkpoint
        for checkpoint in snapshot.checkpoints
        if checkpoint.status is CheckpointStatus.COMMITTED
        and checkpoint.path is not None
        and is_current(checkpoint, snapshot.runs, snapshot.last_step)
    ]
    return tuple(sorted(usable, key=lambda item: (item.step, item.generation), reverse=True))


def no_candidate_reason(snapshot: JournalSnapshot) -> str:
    """Return why a recovery has no candidate, for people."""
    lost = [row for row in snapshot.checkpoints if row.status is CheckpointStatus.LOST]
    if not lost:
        return f"no checkpoint had been saved by step {snapshot.last_step}"
    return "no checkpoint is usable: " + "; ".join(f"{row.name}: {row.note or 'lost'}" for row in lost[-5:])


def checkpoint_ref(checkpoint: CheckpointRecord, policy: CheckpointPolicy) -> CheckpointRef:
    """Convert a checkpoint record to the reference that ``crucible.recovery`` uses, for which a lower metric is
    better. The record has a path."""
    assert checkpoint.path is not None
    metric = checkpoint.metric
    if metric is not None and policy.best_mode == "max":
        metric = -metric
    return CheckpointRef(path=checkpoint.path, name=checkpoint.name, step=checkpoint.step, metric=metric)


def worst_resume(runs: Sequence[RemoteRun]) -> ResumeMode:
    """Return the weakest resume mode of a job's runs: the guarantee that holds for the job as a whole."""
    order = (
        ResumeMode.COLD,
        ResumeMode.UNVERIFIED,
        ResumeMode.RESTARTED,
        ResumeMode.EXACT,
        ResumeMode.WARM,
    )
    modes = {run.resume for run in runs}
    return next((mode for mode in order if mode in modes), ResumeMode.FRESH)
