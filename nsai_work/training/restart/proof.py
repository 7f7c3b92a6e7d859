"""Proof of a resume: compares the losses of steps that ran before a failure and again after it.

A step's loss is computed before its update. So the first repeated step shows whether the weights were restored, and
the second whether the optimizer state was: it went into the update between the two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nsai_work.journal import EvaluationRecord, RemoteRun, ResumeMode, StepRecord
from nsai_work.training.restart.lineage import SKIPPED

REPEATABLE_TOLERANCE: Final = 1e-5
"""Relative tolerance after a bit-exact repeat. Batching with other requests can change a loss by this much."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The finding of a comparison: ``exact`` or ``cold``; ``unverified`` if a step differs from a record that
    corrupted weights may have produced. ``step`` is the deciding step; ``weights_differ``: the weights differ, not
    only the optimizer state."""

    mode: ResumeMode
    step: int
    expected: float
    got: float
    weights_differ: bool = False


def equal_losses(first: float, second: float, tolerance: float) -> bool:
    """Return whether two losses are equal up to a relative ``tolerance``."""
    return first == second or math.isclose(first, second, rel_tol=tolerance, abs_tol=0.0)


def prove(
    run: RemoteRun,
    repeated: Mapping[int, StepRecord],
    superseded: Mapping[int, StepRecord],
    tolerance: float,
    suspect: frozenset[int] = frozenset(),
) -> Proof | None:
    """Return the finding of the steps repeated so far; None if there is none yet.

    If the first step's loss is repeated bit for bit, the next step must match within ``REPEATABLE_TOLERANCE``: a
    missing optimizer may change less than the ``tolerance`` that other servers' arithmetic needs.

    ``superseded`` holds only records selected by ``comparable``. A step that equals a record of a ``suspect``
    generation is proof; a step that differs from it proves nothing.
    """
    proof: Proof | None = None
    allowed = tolerance
    for step in (run.from_step + 1, run.from_step + 2):
        before, after = superseded.get(step), repeated.get(step)
        if before is None or after is None:
            return None
        if not equal_losses(before.loss, after.loss, allowed):
            mode = ResumeMode.UNVERIFIED if before.generation in suspect else ResumeMode.COLD
            return Proof(mode, step, before.loss, after.loss, weights_differ=step == run.from_step + 1)
        if before.loss == after.loss:
            allowed = min(tolerance, REPEATABLE_TOLERANCE)
        proof = Proof(ResumeMode.EXACT, step, before.loss, after.loss)
    return proof


def comparable(
    superseded: Mapping[int, StepRecord], runs: Sequence[RemoteRun], checkpoint_generation: int | None
) -> dict[int, StepRecord]:
    """Return the superseded steps that a run restored from a checkpoint must reproduce.

    Steps of a cold run are excluded, since it diverged, unless the checkpoint is that run's own; so are skipped
    steps.
    """
    cold = _cold(runs, checkpoint_generation)
    return {
        step: record
        for step, record in superseded.items()
        if record.generation not in cold and SKIPPED not in record.metrics
    }


def comparable_evaluations(
    superseded: Mapping[int, EvaluationRecord], runs: Sequence[RemoteRun], checkpoint_generation: int | None
) -> dict[int, EvaluationRecord]:
    """Return the superseded evaluations that a restored run must reproduce, as ``comparable`` does for steps."""
    cold = _cold(runs, checkpoint_generation)
    return {step: record for step, record in superseded.items() if record.generation not in cold}


def _cold(runs: Sequence[RemoteRun], checkpoint_generation: int | None) -> set[int]:
    return {run.generation for run in runs if run.resume is ResumeMode.COLD} - {checkpoint_generation or 0}
