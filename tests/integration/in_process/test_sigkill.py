"""A job on backends that train inside the worker: killed at a random step, it resumes exactly.

The short form has supervised training and reinforcement learning; preferences and mixtures on the backend fake are
in ``make test-slow``.
"""

import importlib.util
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsai_work import Job, JobHandle, submit
from tests.conversations import write_conversations, write_pairs
from tests.rig import Rig, until

STEPS = {"fake": 80, "peft": 12}
"""Enough steps for a kill in the middle."""
METHODS = ("sft", "dpo", "mixture")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """SQLite and the embedded transport; the tiny Llama replaces the model of the job, here too: its submit would
    look for the real one."""
    made = Rig(tmp_path, f"sqlite:///{tmp_path}/work.db", f"spool://localhost{tmp_path}/spool")
    made.variables["NSAI_WORK_PEFT_MODELS"] = json.dumps({"llama-3.2-1b": "nsai/tiny-llama"})
    made.variables["OMP_NUM_THREADS"] = "1"
    monkeypatch.setenv("NSAI_WORK_PEFT_MODELS", made.variables["NSAI_WORK_PEFT_MODELS"])
    try:
        yield made
    finally:
        made.close()


def job(backend: str, data: Path, method: str) -> Job:
    """The same job for every backend, with evaluations."""
    files: dict[str, Any] = {"path": str(data)}
    if method == "mixture":
        files = {"sources": [{**files, "weight": 2.0}, {"path": str(data.with_name("more.jsonl"))}]}
    return Job(
        kind="training_step",
        backend=backend,
        payload={
            "method": "dpo" if method == "dpo" else "sft",
            "base_model": "llama-3.2-1b",
            "data": files,
            "lora": {"rank": 4},
            "optimizer": {"learning_rate": 3e-3},
            "batch_size": 2,
            "max_steps": STEPS[backend],
            "seed": 0,
            "eval": {"every": 4, "split": 0.3},
            "checkpoint_policy": {"strategy": "steps", "save_every": 3},
            "sinks": [{"sink": "jsonl"}],
        },
    )


def losses(handle: JobHandle) -> list[float]:
    """The losses that count, in order."""
    return [step.loss for step in handle.steps()]


def evaluations(handle: JobHandle) -> list[tuple[int, dict[str, float]]]:
    """The evaluations that count, in order."""
    return [(record.step, record.metrics) for record in handle.evaluations()]


def assert_written_once(rig: Rig, handle: JobHandle, result: dict[str, Any]) -> None:
    """The sink has each step and evaluation once, in one segment where the restore was shown equal."""
    file = rig.settings().home / "metrics" / f"{handle.id}.jsonl"
    lines = [line for line in map(json.loads, file.read_text().splitlines()) if "step" in line]
    places = [(line["segment"], line["step"], line.get("evaluation", False)) for line in lines]
    assert len(set(places)) == len(places)
    if result["resume"] == "exact":
        assert {segment for segment, _, _ in places} == {1}
    newest = {(line["step"], line.get("evaluation", False)): line["metrics"] for line in lines}
    steps = [newest[record.step, False]["loss"] for record in handle.steps()]
    assert steps == losses(handle)
    assert [newest[step, True] for step, _ in evaluations(handle)] == [
        metrics for _, metrics in evaluations(handle)
    ]
    assert result["sinks"]["jsonl"]["error"] is None


PEFT = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra peft"),
    pytest.mark.timeout(300),
]


CASES = [
    *(pytest.param("fake", method, marks=[pytest.mark.slow] if method != "sft" else []) for method in METHODS),
    *(pytest.param("peft", method, marks=PEFT) for method in METHODS),
]


@pytest.mark.parametrize(("backend", "method"), CASES)
def test_a_killed_worker_costs_no_step_and_no_bit(rig: Rig, tmp_path: Path, backend: str, method: str) -> None:
    """SIGKILL after the first checkpoint: another worker restores it with its optimizer, and every loss and every
    evaluation is the one of a run that was left alone."""
    data = write_rows(tmp_path, method)
    left_alone = submit(job(backend, data, method), rig.settings())
    worker = rig.start_worker()
    left_alone.result(timeout=120)

    killed = submit(job(backend, data, method), rig.settings())
    until(lambda: any(save.status == "committed" for save in killed.checkpoints()), "a checkpoint", worker.text)
    worker.kill()
    seen = len(losses(killed))
    rig.start_worker()
    result = killed.result(timeout=120)

    assert 3 <= seen < STEPS[backend]
    assert_equal(killed, left_alone)
    assert len(losses(killed)) == STEPS[backend]
    assert_written_once(rig, killed, result)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("backend", "method"), CASES)
def test_many_kills_cost_no_step_and_no_bit(rig: Rig, tmp_path: Path, backend: str, method: str) -> None:
    """The long form: seven kills at random points of the job's log, begins and restores too; more jobs until there
    were so many."""
    moments, kills, limit = random.Random(f"{backend} {method}"), 0, 7
    data = write_rows(tmp_path, method)
    left_alone = submit(job(backend, data, method), rig.settings())
    worker = rig.start_worker()
    left_alone.result(timeout=900)
    while kills < limit:
        killed = submit(job(backend, data, method), rig.settings())
        while not killed.job().status.ended or parked(killed):
            # from before the first step to behind the last, however long a worker takes to start
            until_later(killed, moments.randint(1, 2 * STEPS[backend]) if kills < limit else sys.maxsize)
            if not killed.job().status.ended:
                worker.kill()
                kills += 1
                worker = rig.start_worker(ready=False)
        assert_equal(killed, left_alone)
        resumes = [event.name for event in killed.events() if event.name.startswith("resume.")]
        found = f"{len(losses(killed))} losses and {len(evaluations(killed))} evaluations equal, {Counter(resumes)}"
        sys.stderr.write(f"\n{backend} {method}, {kills} kills so far: {found}\n")


def parked(handle: JobHandle) -> bool:
    """Retry a job that was parked, as five workers in a row died with it before they had a new step."""
    error = handle.job().error
    if error is None or error.code != "poison_job":
        return False
    handle.retry()
    return True


def until_later(handle: JobHandle, events: int) -> None:
    """Wait until a job has so many more events, or has ended."""
    before = len([*handle.events()])
    until(
        lambda: handle.job().status.ended or len([*handle.events()]) >= before + events,
        f"{events} events after {before}",
        lambda: [event.name for event in handle.events()],
        timeout_s=900,
    )


def write_rows(folder: Path, method: str) -> Path:
    """The data of a job, and those of the second file of a mixture."""
    write_conversations(folder / "more.jsonl", 9, "Where is {n}?")
    path = folder / "rows.jsonl"
    return write_pairs(path, 20) if method == "dpo" else write_conversations(path, 20, "What is {n} and {n}?")


def assert_equal(killed: JobHandle, left_alone: JobHandle) -> None:
    """Every loss and every evaluation is that of the run that was left alone."""
    assert losses(killed) == losses(left_alone)
    assert evaluations(killed) == evaluations(left_alone) != []
    assert killed.result(timeout=1)["resume"] != "cold"


RL: dict[str, dict[str, Any]] = {
    "plain": {"environment": {"name": "tests.games:Guess"}, "max_steps": 10},
    "newer": {
        "environment": {
            "name": "tests.games:Judged",
            "args": {"letters": "ab"},
            "models": {"judge": "llama-3.2-1b"},
        },
        "kl": {"coef": 0.1},
        "loss_fn": "ppo",
        "substeps": 2,
        "steps_ahead": 1,
        "on_stale": "drop",
        "eval": {"every": 4, "tasks": [{"environment": "tests.games:Letters", "limit": 2}]},
        "max_steps": 12,
    },
}
"""Jobs of reinforcement learning: the fields that every such job has, and the others."""


@pytest.mark.parametrize("fields", RL.values(), ids=RL)
@pytest.mark.parametrize("backend", ["fake", pytest.param("peft", marks=PEFT)])
def test_a_killed_worker_costs_no_rollout(rig: Rig, backend: str, fields: dict[str, Any]) -> None:
    """Reinforcement learning: SIGKILL after the first checkpoint; the rewards, the losses, the evaluations and the
    rollouts are those of a run that was left alone."""

    def rl() -> Job:
        payload = {
            "method": "rl",
            "base_model": "llama-3.2-1b",
            "groups_per_step": 2,
            "group_size": 2,
            "sampling": {"max_tokens": 3},
            "lora": {"rank": 4},
            "checkpoint_policy": {"strategy": "steps", "save_every": 3},
        }
        return Job(kind="training_step", backend=backend, payload=payload | fields)

    def rollouts(handle: JobHandle) -> list[tuple[int, int, int, float | None, int]]:
        return [(one.step, one.group, one.member, one.reward, one.tokens) for one in handle.rollouts()]

    rig.variables["NSAI_WORK_PYTHON_ALLOW"] = "tests"
    left_alone = submit(rl(), rig.settings())
    worker = rig.start_worker()
    left_alone.result(timeout=120)
    killed = submit(rl(), rig.settings())
    until(lambda: any(save.status == "committed" for save in killed.checkpoints()), "a checkpoint", worker.text)
    worker.kill()
    seen = len(losses(killed))
    rig.start_worker()
    result = killed.result(timeout=120)

    last = int(fields["max_steps"])
    assert 3 <= seen < last
    assert losses(killed) == losses(left_alone)
    assert evaluations(killed) == evaluations(left_alone)
    assert len(evaluations(killed)) == (4 if "eval" in fields else 0)
    assert rollouts(killed) == rollouts(left_alone)
    assert len(rollouts(killed)) == last // int(fields.get("substeps", 1)) * 4
    assert result["resume"] != "cold"
