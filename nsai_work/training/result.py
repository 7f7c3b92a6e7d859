"""The result of a finished training job, computed from its journal."""

from pydantic import JsonValue

from nsai_work.journal import JournalSnapshot, RemoteRun
from nsai_work.payloads import REWARD, TrainingStep
from nsai_work.training.checkpoints import final_checkpoint
from nsai_work.training.evaluation import last_step, result_fields
from nsai_work.training.plan import Plan
from nsai_work.training.restart.lineage import SKIPPED, worst_resume


def is_finished(snapshot: JournalSnapshot, plan: Plan, payload: TrainingStep) -> bool:
    """Return whether all steps are recorded and the final state and its sampling weights are saved."""
    last = last_step(plan, payload, snapshot.evaluations)
    final = final_checkpoint(snapshot.checkpoints, last)
    return snapshot.last_step == last and final is not None and final.sampler_path is not None


def training_result(snapshot: JournalSnapshot, plan: Plan, payload: TrainingStep) -> dict[str, JsonValue]:
    """Return the job's result. ``model`` is the path to sample from; ``resume`` the weakest resume mode;
    ``lost_steps`` the steps that were recorded and had to be repeated; ``missing_metric`` the checkpoint policy's
    metric, if a checkpoint has no value of it."""
    final = final_checkpoint(snapshot.checkpoints, last_step(plan, payload, snapshot.evaluations))
    assert final is not None
    losses = [step.loss for step in snapshot.steps]
    return {
        "loss": losses[-1],
        "first_loss": losses[0],
        **_rewards(snapshot),
        "steps": snapshot.last_step,
        "epochs": round(snapshot.last_step / plan.steps_per_epoch, 3),
        "tokens": sum(step.tokens for step in snapshot.steps),
        "checkpoint": final.path,
        "model": final.sampler_path,
        "resume": worst_resume(snapshot.runs).value,
        "recoveries": len(snapshot.runs) - 1,
        "lost_steps": sum(run.lost_steps for run in snapshot.runs),
        "skipped_steps": [step.step for step in snapshot.steps if SKIPPED in step.metrics],
        "lineage": [_run(run) for run in snapshot.runs],
        **_missing_metric(snapshot, payload),
        **result_fields(payload, snapshot.evaluations),
    }


def _rewards(snapshot: JournalSnapshot) -> dict[str, JsonValue]:
    rewards = [step.metrics[REWARD] for step in snapshot.steps if REWARD in step.metrics]
    return {"reward": rewards[-1], "first_reward": rewards[0]} if rewards else {}


def _missing_metric(snapshot: JournalSnapshot, payload: TrainingStep) -> dict[str, JsonValue]:
    evaluated = {record.step for record in snapshot.evaluations}
    compared = [row for row in snapshot.checkpoints if not payload.is_best_by_evaluation or row.step in evaluated]
    missing = any(row.kept and row.metric is None for row in compared)
    return {"missing_metric": payload.checkpoint_policy.best_metric} if missing else {}


def _run(run: RemoteRun) -> dict[str, JsonValue]:
    return {
        "generation": run.generation,
        "run_id": run.ref.run_id,
        "from_step": run.from_step,
        "resume": run.resume.value,
        "restored_from": run.restored_from,
        "end_reason": run.end_reason,
        "lost_steps": run.lost_steps,
        "restart_reason": run.restart_reason,
    }
