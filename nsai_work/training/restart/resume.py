"""Verifies a resume as the repeated steps are recorded, and journals the finding."""

import math

from pydantic import JsonValue

from nsai_work.errors import ResumeUnproven
from nsai_work.journal import EvaluationRecord, ResumeMode, StepRecord
from nsai_work.policies import EVAL_LOSS
from nsai_work.training.restart.lineage import EndReason
from nsai_work.training.restart.proof import Proof, equal_losses, prove
from nsai_work.training.run_state import ActiveRun, Assignment


async def check_resume(assignment: Assignment, active: ActiveRun, record: StepRecord | None = None) -> None:
    """Update the run's resume mode from the steps repeated so far, ``record`` included, and journal any change.

    Raises:
        ResumeUnproven: weights or optimizer state were not restored, and the policy is to stop in that case.
    """
    if active.record.resume is not ResumeMode.UNVERIFIED:
        return
    if record is not None and record.step <= active.record.from_step + 2:
        active.repeated[record.step] = record
    proof = prove(
        active.record, active.repeated, active.superseded, active.run.features.loss_tolerance, active.suspect
    )
    if proof is None:
        return
    if proof.mode is ResumeMode.UNVERIFIED:
        if record is not None and record.step == proof.step:
            await assignment.journal.event("resume.inconclusive", _details(active, proof))
        return
    await _record_mode(assignment, active, proof)


async def _record_mode(assignment: Assignment, active: ActiveRun, proof: Proof) -> None:
    active.record = active.record.model_copy(update={"resume": proof.mode})
    await assignment.journal.set_resume(active.record.generation, proof.mode)
    name = "resume.verified" if proof.mode is ResumeMode.EXACT else "resume.cold"
    await assignment.journal.event(name, _details(active, proof))
    if proof.mode is ResumeMode.COLD and assignment.payload.recovery.on_cold_optimizer == "stop":
        error = _unproven(active, proof)
        # a retry of the job must not go on with this run, but restore again
        reason = EndReason(error.code, active.progress.last_step + 1, error.message)
        await assignment.journal.end_run(active.record.generation, str(reason))
        raise error


async def check_evaluation(assignment: Assignment, active: ActiveRun, record: EvaluationRecord) -> None:
    """Compare an evaluation with the one that it repeats, and journal a difference: the weights are others then. A
    run that differs is not ``exact``, whatever its steps have shown; a new run from step 0 has nothing to prove.

    Raises:
        ResumeUnproven: as ``check_resume``.
    """
    before = active.superseded_evaluations.get(record.step)
    if before is None:
        return
    tolerance = active.run.features.loss_tolerance
    different = [
        name
        for name, value in before.metrics.items()
        if not equal_losses(value, record.metrics.get(name, math.nan), tolerance)
    ]
    if not different:
        return
    details: dict[str, JsonValue] = {
        "generation": active.record.generation,
        "restored_from": active.record.restored_from,
        "step": record.step,
        "expected": {**before.metrics},
        "got": {**record.metrics},
    }
    await assignment.journal.event("evaluation.differs", details)
    provable = active.record.resume in (ResumeMode.UNVERIFIED, ResumeMode.EXACT)
    if not provable or before.generation in active.suspect:
        return
    name = EVAL_LOSS if EVAL_LOSS in different else different[0]
    proof = Proof(ResumeMode.COLD, record.step, before.metrics[name], record.metrics.get(name, math.nan))
    await _record_mode(assignment, active, proof)


def _details(active: ActiveRun, proof: Proof) -> dict[str, JsonValue]:
    return {
        "generation": active.record.generation,
        "restored_from": active.record.restored_from,
        "step": proof.step,
        "expected_loss": proof.expected,
        "loss": proof.got,
        "missing": _missing(proof) if proof.mode is ResumeMode.COLD else None,
    }


def _missing(proof: Proof) -> str:
    return "weights" if proof.weights_differ else "optimizer"


def _unproven(active: ActiveRun, proof: Proof) -> ResumeUnproven:
    missing = "weights" if proof.weights_differ else "optimizer's state"
    return ResumeUnproven(
        f"the {missing} did not come back from {active.record.restored_from}: step {proof.step} has loss "
        f"{proof.got!r}, but had {proof.expected!r} before; set recovery.on_cold_optimizer to continue to go on "
        "regardless",
        backend=active.run.ref.backend,
        details=_details(active, proof),
    )
