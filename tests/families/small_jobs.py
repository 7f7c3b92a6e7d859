"""The jobs of the table of families, of a few small steps, to be run by tests."""

import json
from pathlib import Path
from typing import Any, Final

from tests.families.table import EntryPoint, whole_job

STEPS: Final = 3
_SMALL: Final = {"max_steps": STEPS, "lora": {"rank": 4, "seed": 0}, "max_tokens": 512, "sinks": []}


def small_jobs(entry: EntryPoint, folder: Path) -> list[dict[str, Any]]:
    """Return the jobs of an entry point, whose data lie in a folder."""
    return [_small_job(whole_job(job), folder) for job in entry.jobs]


def _small_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    payload = dict(job["payload"])
    if job.get("kind") == "training_step":
        payload = _small_training(payload)
    text = json.dumps({**job, "payload": payload}).replace('"environments:', '"tests.families.environments:')
    for name in folder.glob("*.jsonl"):
        text = text.replace(f'"{name.name}"', json.dumps(str(name)))
    small: dict[str, Any] = json.loads(text)
    return small


def _small_training(payload: dict[str, Any]) -> dict[str, Any]:
    payload = payload | _SMALL
    payload.pop("epochs", None)
    if payload.get("method") == "rl":
        payload |= {"groups_per_step": 2, "group_size": min(payload["group_size"], 3)}
        payload["sampling"] = payload.get("sampling", {}) | {"max_tokens": 3}
        if "turns" in (arguments := (payload.get("environment") or {}).get("args", {})):
            arguments = {**arguments, "turns": min(arguments["turns"], 3)}
            payload["environment"] = {**payload["environment"], "args": arguments}
    else:
        payload["batch_size"] = 4
    if "eval" in payload:
        payload["eval"] = payload["eval"] | {"every": 2}
        payload["eval"] |= {"tasks": [{**each, "limit": 2} for each in payload["eval"].get("tasks", [])]}
    return payload
