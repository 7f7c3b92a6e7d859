"""The jobs of the table that read other jobs, images, or sequences of a service, on the dev server: their workers
are killed in the middle of each job, and all end as those that were left alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from nsai_work import JobHandle, submit_many
from nsai_work.client.jobfile import load_jobs
from tests.chaos.harness import service_variables, training_service
from tests.families.small_jobs import small_jobs
from tests.families.table import ENTRY_POINTS, EntryPoint
from tests.families.test_killed_families import runs_alone
from tests.rig import Rig, until

ALWAYS: Final = ("prompt_distillation.train",)
"""The entry points that are killed in every run of the tests."""
CASES: Final = [entry for entry in ENTRY_POINTS if entry.jobs and not runs_alone(entry)]
WAIT_S: Final = 240.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """SQLite and the embedded transport."""
    rig = Rig.embedded(tmp_path)
    try:
        yield rig
    finally:
        rig.close()


@pytest.mark.parametrize(
    "entry",
    [pytest.param(each, id=each.name, marks=() if each.name in ALWAYS else (pytest.mark.long,)) for each in CASES],
)
@pytest.mark.timeout(600)
def test_killed_workers_of_a_pipeline_change_no_bit(
    entry: EntryPoint, rig: Rig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, metrics, evaluations, rewards and answers."""
    with training_service(tmp_path / "service", work_ms=20) as server:
        rig.variables |= service_variables(server) | {"NSAI_WORK_PYTHON_ALLOW": "tests"}
        for name, value in rig.variables.items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "jobs.yaml"
        file.write_text(yaml.safe_dump(small_jobs(entry, data)))
        alone = submit_many(load_jobs(file), rig.settings())
        worker = rig.start_worker(lease_ttl_s=1.0)
        for handle in alone:
            handle.result(timeout=WAIT_S)
        worker.kill()
        killed = submit_many(load_jobs(file), rig.settings())
        kills = 0
        for handle in killed:
            worker = rig.start_worker(lease_ttl_s=1.0)
            until(lambda handle=handle: is_begun(rig, handle), "it is under way", worker.text, timeout_s=WAIT_S)
            kills += not handle.status().ended
            worker.kill()
        rig.start_worker(lease_ttl_s=1.0)
        for handle in killed:
            handle.result(timeout=WAIT_S)

    assert kills > 0
    assert [outcome(handle) for handle in killed] == [outcome(handle) for handle in alone]


def is_begun(rig: Rig, handle: JobHandle) -> bool:
    """Return whether a job has recorded something that is not to be done again, or has ended."""
    recorded = handle.steps() or handle.rollouts() or rig.store.answers(handle.id)
    return bool(recorded) or handle.status().ended


def outcome(handle: JobHandle) -> Any:
    """What a job has made: its steps, evaluations and rollouts, or its answers."""
    steps = [(step.step, step.loss, step.metrics) for step in handle.steps()]
    evaluations = [(each.step, each.metrics) for each in handle.evaluations()]
    rollouts = [(one.step, one.group, one.member, one.reward, one.tokens) for one in handle.rollouts()]
    if steps:
        return steps, evaluations, rollouts
    rows = [(row["line"], [each["message"] for each in row["completion"]["choices"]]) for row in handle.results()]
    assert rows
    return json.dumps(rows)
