"""``nsai-work rollouts``: the rollouts of reinforcement learning: answers and rewards."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from crucible.errors import InvalidRequest
from crucible.rendering.plain_text import plain_line
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.job_result import so_far
from nsai_work.cli.output.stdout import write_json, write_line, write_table
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import existing_store
from nsai_work.job import Job
from nsai_work.payloads import ReinforcementStep


def rollouts(
    job_id: JobId,
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="The step whose rollouts are printed with their messages.")
    ] = None,
    evaluated: Annotated[
        bool, typer.Option("--evaluated", help="The rollouts of evaluations instead of those that are trained on.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Print the rollouts of a job of reinforcement learning: the mean reward of each step, or with --step what the
    model was asked and answered, its reward, and why each rollout ended."""
    from nsai_work.client.rollouts import read_rollouts

    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    payload = job.parsed_payload
    if not isinstance(payload, ReinforcementStep):
        raise InvalidRequest.of("job", job.id, "only training jobs with method: rl have rollouts")
    if step is not None:
        found = list(read_rollouts(store, job.id, step, evaluated=evaluated))
        if json_output:
            write_json([*found])
        elif not found:
            write_line(_no_rollouts(job, payload, step, evaluated=evaluated), err=True)
        else:
            for rollout in found:
                write_rollout(rollout)
        return
    records = store.rollouts(job.id, evaluated=evaluated)
    if json_output:
        write_json([record.model_dump(mode="json") for record in records])
        return
    rows = []
    for number in sorted({record.step for record in records}):
        own = [record for record in records if record.step == number]
        rewards = [record.reward for record in own if record.reward is not None]
        mean = sum(rewards) / len(rewards) if rewards else None
        best = max(rewards, default=None)
        rows.append((number, len(own), len(own) - len(rewards), mean, best, sum(record.tokens for record in own)))
    header = ("STEP", "ROLLOUTS", "FAILED", "REWARD", "BEST", "TOKENS")
    write_table(header, rows, if_empty=f"no rollouts{so_far(job.status)}")


def _no_rollouts(job: Job, payload: ReinforcementStep, step: int, *, evaluated: bool) -> str:
    first = step - (step - 1) % payload.substeps
    if step > first > 0 and not evaluated:
        return f"no rollouts of step {step}: it trains on those of step {first}, the first of its round"
    return f"no rollouts of step {step}{so_far(job.status)}"


def write_rollout(rollout: Mapping[str, Any]) -> None:
    """Write a rollout with its messages."""
    reward = "failed" if rollout["reward"] is None else f"reward {rollout['reward']:.6g}"
    place = f"group {rollout['group']}, member {rollout['member']}, task {rollout['task']}"
    write_line(f"{place}: {reward}, {plain_line(rollout['reason'])}, {rollout['tokens']} tokens")
    for message in rollout["messages"]:
        content = message.get("content")
        text = content if isinstance(content, str) else "" if content is None else repr(content)
        calls = "".join(f" -> {call['name']}({call['arguments']})" for call in message.get("tool_calls", ()))
        # further lines are set in, so that none looks like a line of this command
        write_line("\n    ".join(f"  {message['role']}: {text}{calls}".splitlines()))
