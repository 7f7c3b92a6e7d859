"""Jobs of the kits of environments, on the fake backend."""

from typing import Any

from nsai_work import Job, submit
from nsai_work.testing import run_jobs


def run_job(environment: str, settings: dict[str, Any], **fields: Any) -> Any:
    """The handle of a job on an environment, which has run to its end; ``fields`` are those of its payload."""
    payload = {
        "method": "rl",
        "base_model": "tiny-lm",
        "environment": {"name": environment, "args": settings},
        "groups_per_step": 2,
        "group_size": 2,
        "max_steps": 1,
        "advantage": {"drop_constant": False},
        "lora": {"rank": 4},
        **fields,
    }
    handle = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": payload}))
    run_jobs(timeout_s=240)
    return handle
