"""The jobs of the table, small, and killed in the middle: each ends as one that was left alone."""

import json
from pathlib import Path
from typing import Final

import pytest

from backends.fake import FakeBackend
from nsai_work.payloads import JobKind, parse_payload
from nsai_work.payloads.reads import jobs_read
from tests.families.small_jobs import STEPS, small_jobs
from tests.families.table import ENTRY_POINTS, EntryPoint
from tests.integration.training.harness import Killed, Reaper, Scene
from tests.integration.training.test_reinforcement import outcome

pytestmark = pytest.mark.anyio

ALWAYS: Final = ("chat_sl.train", "forecasting.train", "preference.shorter.train", "sdft.train", "decisions.demo")
"""The entry points that are killed in every run of the tests."""


def runs_alone(entry: EntryPoint) -> bool:
    """Return whether the jobs of an entry point need neither another job nor what the scripted backend lacks:
    images, or sequences that a service records. The others are killed in ``test_killed_pipelines.py``."""
    text = json.dumps(entry.jobs)
    payloads = [job["payload"] for job in entry.jobs]
    foreign = any(name in text for name in ("pictures.jsonl", "stable_reinforce"))
    trained = all(job.get("kind", "training_step") == "training_step" for job in entry.jobs)
    return bool(payloads) and trained and not foreign and not any(jobs_read(payload) for payload in payloads)


CASES: Final = [entry for entry in ENTRY_POINTS if runs_alone(entry)]


@pytest.mark.parametrize(
    "entry",
    [pytest.param(each, id=each.name, marks=() if each.name in ALWAYS else (pytest.mark.long,)) for each in CASES],
)
async def test_a_killed_job_ends_as_one_left_alone(
    entry: EntryPoint, data: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, metrics, evaluations, rewards and turns, bit for bit."""
    monkeypatch.syspath_prepend(str(packages))
    for job in small_jobs(entry, data):
        payload = parse_payload(JobKind.TRAINING_STEP, job["payload"])
        alone, counted = Scene(payload, new_backend=FakeBackend), Reaper()
        await alone.drive(reaper=counted)
        scene = Scene(payload, new_backend=FakeBackend)
        with pytest.raises(Killed):
            await scene.drive(kill_at=counted.contacts // 2)
        await scene.drive()

        assert len(alone.losses) == STEPS
        assert outcome(scene) == outcome(alone)
        assert [each.metrics for each in scene.journal.evaluations] == [
            each.metrics for each in alone.journal.evaluations
        ]
