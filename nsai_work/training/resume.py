"""A resume is proven, not believed: the repeated steps are looked at as they come in."""

from pydantic import JsonValue

from nsai_work.errors import ResumeUnproven
from nsai_work.journal import ResumeMode, StepRecord
from nsai_work.training.proof import Proof, prove
from nsai_work.training.run_state import Assignment, Live


async def check_resume(assignment: Assignment, live: Live, record: StepRecord | None = None) -> None:
    """See what the repeated steps show, now that ``record`` is one of them, and write it down.

    Raises:
        ResumeUnproven: the optimizer did not come back, and the policy asks to stop then.
    """
    if live.record.resume is not ResumeMode.UNVERIFIED:
        return
    if record is not None and record.step <= live.record.from_step + 2:
        live.repeated[record.step] = record
    proof = prove(live.record, live.repeated, live.superseded, live.run.features.loss_tolerance, live.suspect)
    if proof is None:
        return
    if proof.mode is ResumeMode.UNVERIFIED:
        if record is not None and record.step == proof.step:
            await assignment.journal.event("resume.inconclusive", _details(live, proof))
        return
    live.record = live.record.model_copy(update={"resume": proof.mode})
    await assignment.journal.set_resume(live.record.generation, proof.mode)
    name = "resume.verified" if proof.mode is ResumeMode.EXACT else "resume.cold"
    await assignment.journal.event(name, _details(live, proof))
    stops = assignment.payload.recovery.on_cold_optimizer == "stop"
    if proof.mode is ResumeMode.COLD and stops:
        raise _unproven(live, proof)


def _details(live: Live, proof: Proof) -> dict[str, JsonValue]:
    return {
        "generation": live.record.generation,
        "restored_from": live.record.restored_from,
        "step": proof.step,
        "expected_loss": proof.expected,
        "loss": proof.got,
        "missing": _missing(proof) if proof.mode is ResumeMode.COLD else None,
    }


def _missing(proof: Proof) -> str:
    return "weights" if proof.weights_differ else "optimizer"


def _unproven(live: Live, proof: Proof) -> ResumeUnproven:
    missing = "weights" if proof.weights_differ else "optimizer's state"
    return ResumeUnproven(
        f"the {missing} did not come back from {live.record.restored_from}: step {proof.step} has loss "
        f"{proof.got!r} where it had {proof.expected!r} before; with recovery.on_cold_optimizer: continue "
        "the job would go on regardless",
        backend=live.run.ref.backend,
        details=_details(live, proof),
    )
