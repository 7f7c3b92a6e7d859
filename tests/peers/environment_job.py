"""A job of reinforcement learning in a process of its own that may be killed.

``environment_job.py HOME PAYLOAD``: PAYLOAD is a JSON file. Run again, the job is taken over. Prints its losses,
and its rollouts with their tokens, as JSON at its end.
"""

import json
import sys
from pathlib import Path
from typing import Any

from nsai_work import Job, JobHandle, Settings, submit
from nsai_work.client.connections import job_store
from nsai_work.training.rollouts.episodes.turns import current_turns, full_prompt
from nsai_work.worker import run_inline


def work(home: Path, payload: dict[str, Any]) -> dict[str, Any]:
    """Work the job, which is submitted if it has not been, to its end."""
    settings = Settings(
        home=home, lease_ttl_s=2.0, poll_interval_s=0.2, log_level="error", python_allow="cookbook_builders"
    )
    note = home.parent / "job-id"
    if not note.exists():
        job = Job.parse({"kind": "training_step", "backend": "tinkex", "payload": payload})
        note.write_text(submit(job, settings).id)
    handle = JobHandle(note.read_text(), settings)
    run_inline([handle.id], settings)
    result = handle.result(timeout=10)
    return {
        "losses": [step.loss for step in handle.steps()],
        "metrics": [
            {name: value for name, value in step.metrics.items() if name.startswith("env.")}
            for step in handle.steps()
        ],
        "rollouts": [
            each for step in range(1, len(handle.steps()) + 1) for each in rollouts(handle, settings, step)
        ],
        "result": result,
    }


def rollouts(handle: JobHandle, settings: Settings, step: int) -> list[dict[str, Any]]:
    """Those of a step, with the tokens of their turns."""
    stored = job_store(settings).rollout_turns(handle.id, step)
    found = []
    for record in handle.rollouts(step):
        place = (record.group, record.member)
        turns, _ = current_turns([turn for turn in stored if (turn.group, turn.member) == place])
        found.append(
            {
                "step": step,
                "group": record.group,
                "task": record.task,
                "reward": record.reward,
                "reason": record.reason,
                "metrics": record.metrics,
                "prompts": [full_prompt(turns, number) for number in range(len(turns))],
                "samples": [[turn.tokens, turn.logprobs, turn.stopped] for turn in turns],
            }
        )
    return found


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))))  # noqa: T201
