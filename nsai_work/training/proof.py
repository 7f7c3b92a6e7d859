"""The proof of a resume: steps that ran before a failure and again after it are held against each other.

The loss of a step is computed before its update. So the first repeated step shows whether the weights came back,
and the one after it whether the optimizer did: its state went into the update between the two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nsai_work.journal import RemoteRun, ResumeMode, StepRecord
from nsai_work.training.lineage import SKIPPED

REPEATABLE_TOLERANCE: Final = 1e-5
"""How far apart losses may be where one was just repeated exactly: what other company in a batch can do."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the repeated steps have shown: ``exact`` or ``cold``; or ``unverified``, if a step differs from a record
    that poisoned weights may have made. ``step`` is the one that showed it; ``weights_differ`` says that not only
    the optimizer is missing."""

    mode: ResumeMode
    step: int
    expected: float
    got: float
    weights_differ: bool = False


def equal_losses(one: float, other: float, tolerance: float) -> bool:
    """Whether two losses of a step are the same, up to a relative difference."""
    return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=0.0)


def prove(
    run: RemoteRun,
    repeated: Mapping[int, StepRecord],
    superseded: Mapping[int, StepRecord],
    tolerance: float,
    suspect: frozenset[int] = frozenset(),
) -> Proof | None:
    """What is shown by the steps repeated so far; None while nothing is.

    A server that repeats the first step's loss bit for bit is held to that at the next one: what a missing
    optimizer changes may be less than the ``tolerance`` that other servers' arithmetic needs.

    ``superseded`` holds only records that may be compared with (``comparable``). A step that equals a record of a
    ``suspect`` generation is shown equal; one that differs shows nothing.
    """
    shown: Proof | None = None
    allowed = tolerance
    for place, step in enumerate((run.from_step + 1, run.from_step + 2)):
        before, after = superseded.get(step), repeated.get(step)
        if before is None or after is None:
            return None
        if not equal_losses(before.loss, after.loss, allowed):
            mode = ResumeMode.UNVERIFIED if before.generation in suspect else ResumeMode.COLD
            return Proof(mode, step, before.loss, after.loss, weights_differ=place == 0)
        if before.loss == after.loss:
            allowed = min(tolerance, REPEATABLE_TOLERANCE)
        shown = Proof(ResumeMode.EXACT, step, before.loss, after.loss)
    return shown


def comparable(
    superseded: Mapping[int, StepRecord], runs: Sequence[RemoteRun], checkpoint_generation: int | None
) -> dict[int, StepRecord]:
    """The superseded steps that a run restored from a checkpoint has to repeat.

    Steps of a run that is known to have gone another way (a cold one) prove nothing, unless the checkpoint is that
    run's own; nor does a step that was left out.
    """
    cold = {run.generation for run in runs if run.resume is ResumeMode.COLD} - {checkpoint_generation}
    return {
        step: record
        for step, record in superseded.items()
        if record.generation not in cold and SKIPPED not in record.metrics
    }
