"""What the remote runs of a job say together: which checkpoints lie on the line that counts, which steps poison."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from crucible.errors import CrucibleError
from crucible.training import CheckpointRef
from nsai_work.journal import CheckpointRecord, CheckpointStatus, JournalSnapshot, RemoteRun, ResumeMode

POISONED: Final = "run_corrupted"
FLAGGED: Final = "run_flagged"
"""Poisoned too, but seen by the service's mark only: until then it went on answering, who knows with what."""
SKIPPED: Final = "skipped"
"""The metric that marks the record of a step which was left out."""


@dataclass(frozen=True, slots=True)
class EndReason:
    """Why a remote run was fenced: the code of the error, the step that was next, and the error's words."""

    code: str
    step: int
    message: str

    def __str__(self) -> str:
        return f"{self.code} at step {self.step}: {self.message}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What a run's ``end_reason`` says; None when someone else wrote it."""
        match = re.fullmatch(r"(\w+) at step (\d+): (.*)", text, re.DOTALL)
        return cls(match[1], int(match[2]), match[3]) if match else None


def times_poisoned(runs: Sequence[RemoteRun], step: int) -> int:
    """How many runs were poisoned when this step was next."""
    reasons = (EndReason.parse(run.end_reason) for run in runs if run.end_reason is not None)
    poisoned = (reason for reason in reasons if reason is not None and reason.code in (POISONED, FLAGGED))
    return sum(reason.step == step for reason in poisoned)


def end_code(error: CrucibleError, *, poisoned: bool) -> str:
    """The code under which a run that ended with this error is fenced."""
    if not poisoned:
        return error.code
    return FLAGGED if error.details.get("detected_by") == "flag" else POISONED


def suspect_generations(runs: Sequence[RemoteRun]) -> frozenset[int]:
    """The runs whose last steps may have come from poisoned weights before anybody noticed."""
    reasons = {run.generation: EndReason.parse(run.end_reason) for run in runs if run.end_reason is not None}
    return frozenset(
        generation for generation, reason in reasons.items() if reason is not None and reason.code == FLAGGED
    )


def skipped_steps(runs: Sequence[RemoteRun], *, skip_batch: bool) -> frozenset[int]:
    """The steps that poisoned twice and are left out by policy. It follows from the lineage, so that every later
    owner leaves out the same ones."""
    if not skip_batch:
        return frozenset()
    reasons = [EndReason.parse(run.end_reason) for run in runs if run.end_reason is not None]
    steps = {reason.step for reason in reasons if reason is not None}
    return frozenset(step for step in steps if times_poisoned(runs, step) >= 2)


def counts(checkpoint: CheckpointRecord, runs: Sequence[RemoteRun], last_step: int) -> bool:
    """Whether a checkpoint lies on the line that counts: no later run went back to before it."""
    later = (run for run in runs if run.generation > checkpoint.generation)
    return checkpoint.step <= min((run.from_step for run in later), default=last_step)


def candidates(snapshot: JournalSnapshot) -> tuple[CheckpointRecord, ...]:
    """The checkpoints that a recovery may use, newest first."""
    usable = [
        checkpoint
        for checkpoint in snapshot.checkpoints
        if checkpoint.status is CheckpointStatus.COMMITTED
        and checkpoint.path is not None
        and counts(checkpoint, snapshot.runs, snapshot.last_step)
    ]
    return tuple(sorted(usable, key=lambda item: (item.step, item.generation), reverse=True))


def to_ref(checkpoint: CheckpointRecord) -> CheckpointRef:
    """A checkpoint as the recovery layer takes it."""
    assert checkpoint.path is not None
    return CheckpointRef(path=checkpoint.path, name=checkpoint.name, step=checkpoint.step, metric=checkpoint.metric)


def worst_resume(runs: Sequence[RemoteRun]) -> ResumeMode:
    """The weakest of the resumes of a job: what the whole run may be trusted for."""
    order = (ResumeMode.COLD, ResumeMode.UNVERIFIED, ResumeMode.EXACT, ResumeMode.WARM)
    modes = {run.resume for run in runs}
    return next((mode for mode in order if mode in modes), ResumeMode.FRESH)
