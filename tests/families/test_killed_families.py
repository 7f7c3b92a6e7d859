"""The jobs of the table, small, and killed in the middle: each ends as one that was left alone."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from backends.fake import FakeBackend
from nsai_work.payloads import JobKind, parse_payload
from nsai_work.payloads.reads import jobs_read
from tests.families.test_families import ENTRY_POINTS, PAGE, EntryPoint, data, whole_job
from tests.integration.training.harness import Killed, Reaper, Scene
from tests.integration.training.test_reinforcement import outcome

__all__ = ["data"]

pytestmark = pytest.mark.anyio

SMALL: Final = {"max_steps": 3, "lora": {"rank": 4, "seed": 0}, "max_tokens": 512, "sinks": []}
OF_REWARDS: Final = {"groups_per_step": 2}
KILLED_FAMILIES: Final = 9
"""The number of families all of whose entry points are killed here. It may only rise."""
ALWAYS: Final = ("chat_sl.train", "forecasting.train", "preference.shorter.train", "sdft.train", "decisions.demo")
"""The entry points that are killed in every run of the tests."""


def runs_alone(entry: EntryPoint) -> bool:
    """Return whether the jobs of an entry point need neither another job nor what this process lacks: a package,
    images, or sequences that a service records."""
    text = json.dumps(entry.jobs)
    payloads = [job["payload"] for job in entry.jobs]
    foreign = any(name in text for name in ("pictures.jsonl", '"verifiers"', "stable_reinforce"))
    return bool(payloads) and not foreign and not any(jobs_read(payload) for payload in payloads)


def small_payload(job: dict[str, Any], folder: Path) -> Any:
    """Return the payload of a job of the table, of a few small steps."""
    payload = whole_job(job)["payload"] | SMALL
    payload.pop("epochs", None)
    if payload.get("method") == "rl":
        payload |= OF_REWARDS | {"group_size": min(payload["group_size"], 3)}
        payload["sampling"] = payload.get("sampling", {}) | {"max_tokens": 3}
        if "turns" in (arguments := (payload.get("environment") or {}).get("args", {})):
            arguments = {**arguments, "turns": min(arguments["turns"], 3)}
            payload["environment"] = {**payload["environment"], "args": arguments}
    else:
        payload["batch_size"] = 4
    if "eval" in payload:
        payload["eval"] = payload["eval"] | {"every": 2}
        payload["eval"] |= {"tasks": [{**each, "limit": 2} for each in payload["eval"].get("tasks", [])]}
    text = json.dumps(payload).replace('"environments:', '"tests.families.environments:')
    for name in folder.glob("*.jsonl"):
        text = text.replace(f'"{name.name}"', json.dumps(str(name)))
    return parse_payload(JobKind.TRAINING_STEP, json.loads(text))


CASES: Final = [entry for entry in ENTRY_POINTS if runs_alone(entry)]


@pytest.mark.parametrize(
    "entry",
    [pytest.param(each, id=each.name, marks=() if each.name in ALWAYS else (pytest.mark.long,)) for each in CASES],
)
async def test_a_killed_job_ends_as_one_left_alone(entry: EntryPoint, data: Path) -> None:
    """Losses, metrics, evaluations, rewards and turns, bit for bit."""
    for job in entry.jobs:
        payload = small_payload(job, data)
        alone, counted = Scene(payload, new_backend=FakeBackend), Reaper()
        await alone.drive(reaper=counted)
        scene = Scene(payload, new_backend=FakeBackend)
        with pytest.raises(Killed):
            await scene.drive(kill_at=counted.contacts // 2)
        await scene.drive()

        assert len(alone.losses) == SMALL["max_steps"]
        assert outcome(scene) == outcome(alone)
        assert [each.metrics for each in scene.journal.evaluations] == [
            each.metrics for each in alone.journal.evaluations
        ]


def test_killed_families_are_counted() -> None:
    """And the page says how many."""
    alone = {entry.name for entry in CASES}
    families = {entry.family for entry in ENTRY_POINTS}
    killed = [name for name in families if all(one.name in alone for one in ENTRY_POINTS if one.family == name)]

    assert len(killed) >= KILLED_FAMILIES
    assert f"Of {len(killed)} families all entry points" in " ".join(PAGE.read_text().split())
    assert set(ALWAYS) <= alone
