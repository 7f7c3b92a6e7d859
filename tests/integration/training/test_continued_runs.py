"""A run that goes on where another has ended: the same steps as one run of both lengths, exact under kills."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible.errors import InvalidRequest, NotFound
from nsai_work import Job, JobHandle, extend, submit
from nsai_work.client.connections import job_store
from nsai_work.client.extend import run_line
from nsai_work.errors import InvalidJob
from nsai_work.testing import IsolatedStore, isolated_store, run_jobs
from tests.integration.training.harness import Reaper, Scene, payload_of, write_data
from tests.integration.training.service import Service
from tests.integration.training.test_survival import final_path

STEPS, MORE = 5, 7


async def continued(folder: Path, service: dict[str, Any], **fields: Any) -> Scene:
    """A scene that goes on where one of ``STEPS`` has ended, at the same service."""
    first = Scene(payload_of(folder, max_steps=STEPS, **fields), Service(**service))
    await first.drive()
    start = {"job": first.job.id, "step": STEPS, "path": final_path(first)}
    return Scene(payload_of(folder, max_steps=STEPS + MORE, continue_from=start, **fields), first.service)


@pytest.mark.anyio
@pytest.mark.parametrize("service", [{}, {"replays": False}, {"attachable": False}])
@pytest.mark.parametrize("evaluated", [False, True])
async def test_killed_at_every_point(tmp_path: Path, service: dict[str, Any], evaluated: bool) -> None:
    """The losses, evaluations and weights are those of a single run; so they are before its first checkpoint."""
    fields: dict[str, Any] = {"checkpoint_policy": {"save_every": 4}}
    if evaluated:
        (tmp_path / "held-out").mkdir()
        fields["eval"] = {"every": 3, "data": {"path": str(write_data(tmp_path / "held-out", examples=3))}}
    whole = Scene(payload_of(tmp_path, max_steps=STEPS + MORE, **fields), Service())
    await whole.drive()
    reaper = Reaper()
    scene = await continued(tmp_path, service, **fields)
    await scene.drive(reaper=reaper)
    for kill_at in (None, *range(1, reaper.contacts + 1, 4)):
        scene = await continued(tmp_path, service, **fields)
        result = await scene.survive([] if kill_at is None else [kill_at])
        assert [step.step for step in scene.journal.steps] == [*range(STEPS + 1, STEPS + MORE + 1)]
        assert scene.losses == whole.losses[STEPS:]
        assert [step.learning_rate for step in scene.journal.steps] == [
            step.learning_rate for step in whole.journal.steps[STEPS:]
        ]
        assert {each.step: each.metrics for each in scene.journal.evaluations} == {
            each.step: each.metrics for each in whole.journal.evaluations if each.step > STEPS
        }
        assert scene.service.saved[result["checkpoint"]].model == whole.service.saved[final_path(whole)].model
        assert result["steps"] == STEPS + MORE
        assert not scene.journal.events_named("resume.cold")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IsolatedStore]:
    """An isolated store."""
    with isolated_store(tmp_path / "store") as opened:
        yield opened


def training(folder: Path, backend: str = "fake", **fields: Any) -> JobHandle:
    """A training job of ``STEPS`` that has run."""
    payload = {
        "base_model": "tiny-lm",
        "data": {"path": str(write_data(folder))},
        "batch_size": 3,
        "max_steps": STEPS,
        "lora": {"rank": 4},
        "optimizer": {"learning_rate": 0.01},
        "checkpoint_policy": {"save_every": 2},
        **fields,
    }
    handle = submit(Job.parse({"kind": "training_step", "backend": backend, "payload": payload, "tags": ["t"]}))
    run_jobs()
    return handle


@pytest.fixture
def server(store: IsolatedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """A service of the Tinker API."""
    with DevServer(tmp_path / "service") as opened:
        monkeypatch.setenv("TINKER_BASE_URL", opened.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        yield opened


@pytest.mark.parametrize("backend", ["fake", "tinkex"])
@pytest.mark.usefixtures("server")
def test_extended_twice_a_run_equals_one_of_the_whole_length(
    store: IsolatedStore, tmp_path: Path, backend: str
) -> None:
    """Also when the files are gone; each job knows the line."""
    whole = training(tmp_path, backend, max_steps=STEPS + 4)
    first = training(tmp_path, backend)
    (tmp_path / "data.jsonl").unlink()
    second = extend(first.id, 3)
    run_jobs()
    third = extend(second.id, 1)
    run_jobs()

    job = third.job()
    assert (job.parent_id, job.tags, job.constraints.depends_on) == (second.id, ("t",), (second.id,))
    assert job.payload["data"]["path"] == first.job().payload["data"]["path"]
    assert [step.loss for handle in (first, second, third) for step in handle.steps()] == [
        step.loss for step in whole.steps()
    ]
    assert third.result(timeout=0)["loss"] == whole.result(timeout=0)["loss"]
    assert third.result(timeout=0)["steps"] == STEPS + 4
    for handle in (first, second, third):
        line = run_line(job_store(store.settings), handle.job())
        assert [each.id for each in line] == [first.id, second.id, third.id]
    assert [each.id for each in run_line(job_store(store.settings), whole.job())] == [whole.id]


def test_it_may_go_on_at_an_earlier_checkpoint(store: IsolatedStore, tmp_path: Path) -> None:
    """The step numbers are those of the checkpoint."""
    first = training(tmp_path)
    handle = extend(first.id, 3, checkpoint="4")
    run_jobs()
    assert [step.step for step in handle.steps()] == [5, 6, 7]
    assert handle.steps()[0].loss == first.steps()[4].loss


@pytest.mark.parametrize("schedule", [{"shape": "linear"}, {"shape": "cosine"}, {"warmup_steps": STEPS + 1}])
def test_a_decaying_schedule_is_given_anew(store: IsolatedStore, tmp_path: Path, schedule: dict[str, Any]) -> None:
    """Else the job is refused, and nothing is stored; the new one begins with the first of the new steps."""
    first = training(tmp_path, schedule=schedule)
    with pytest.raises(InvalidJob, match=r"payload: schedule: that of the first 5 steps has run to its end"):
        extend(first.id, 4)
    assert len(store.jobs()) == 1
    handle = extend(first.id, 4, schedule={"shape": "linear", "warmup_steps": 1})
    run_jobs()
    rates = [step.learning_rate for step in handle.steps()]
    assert rates == pytest.approx([0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3])


def test_a_warm_up_that_is_over_stays_as_it_was(store: IsolatedStore, tmp_path: Path) -> None:
    """The rate stays constant."""
    handle = extend(training(tmp_path, schedule={"warmup_steps": 3}).id, 2)
    run_jobs()
    assert [step.learning_rate for step in handle.steps()] == [0.01, 0.01]


def test_what_cannot_go_on_is_refused(store: IsolatedStore, tmp_path: Path) -> None:
    """With the reason."""
    first = training(tmp_path)
    composite = submit(Job.parse({"kind": "composite", "backend": "fake", "payload": {}}))
    waiting = submit(Job.parse({"id": "waiting", "kind": "training_step", "backend": "fake",
                                "payload": first.job().payload}))  # fmt: skip
    with pytest.raises(InvalidRequest, match="it is a job of kind composite"):
        extend(composite.id, 1)
    canceled = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": first.job().payload}))
    canceled.cancel()
    before = len(store.jobs())
    with pytest.raises(InvalidRequest, match="it is queued; only a job that has succeeded goes on; wait for it"):
        extend(waiting.id, 1)
    with pytest.raises(InvalidRequest, match=r"it is canceled; only a job that has succeeded .* is retried"):
        extend(canceled.id, 1)
    with pytest.raises(NotFound, match="has no checkpoint '3'; it has checkpoints of the steps 2, 4, 5"):
        extend(first.id, 1, checkpoint="3")
    with pytest.raises(InvalidRequest, match="steps"):
        extend(first.id, 0)
    payload = {**first.job().payload, "max_steps": 9}
    for start, message in {
        "early": ({"job": first.id, "step": 4}, r"payload\.continue_from\.step: 4 is not allowed"),
        "waiting": ({"job": waiting.id, "step": 4}, r"payload\.continue_from\.job: waiting is queued"),
        "end": ({"job": first.id, "step": 9}, r"max_steps: set it to more than 9"),
    }.values():
        with pytest.raises(InvalidJob, match=message):
            submit(Job.parse({"kind": "training_step", "backend": "fake",
                              "payload": {**payload, "continue_from": start}}))  # fmt: skip
    for other in ({"init_from": "fake://x/weights/y"}, {"epochs": 2}, {"schedule": {"from_step": 7}}):
        with pytest.raises(InvalidJob, match=r"init_from|epochs|from_step"):
            Job.parse({"kind": "training_step", "backend": "fake",
                       "payload": {**payload, "continue_from": {"job": first.id, "step": 5}, **other}})  # fmt: skip
    with pytest.raises(InvalidJob, match=r"schedule\.from_step: only a run that continues"):
        Job.parse({"kind": "training_step", "payload": {**payload, "schedule": {"from_step": 1}}})
    assert len(store.jobs()) == before
