"""The history of real worker processes: clean where the product is, and each mutant of the product is found.

The clean history of a run whose session is lost takes as long as all others together: it is in ``make test-slow``,
and its mutant here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, JobHandle, submit
from nsai_work.store.maintenance import rescuer
from nsai_work.store.maintenance.leases import running_leases
from tests.integration.training.harness import payload_of
from tests.integration.worker.test_killed_rollouts import job as rollouts_job
from tests.rig import Rig, WorkerProcess, until
from tests.verify.mutants import MUTANT_VARIABLE
from tests.verify.recorded_run import RecordedRun, recorded

pytestmark = pytest.mark.chaos

STEPS, SLOW_MS = 60, 150
"""A job that lasts for longer than anything that is done to it; a step is two operations."""
ENDLESS_S = 600.0
"""A lease that expires in no test, and is seldom renewed: a fenced owner goes on until a write of it is refused."""


class Scene:
    """A dev server, a store, and workers that are mutants or not."""

    def __init__(self, rig: Rig, folder: Path, stack: ExitStack) -> None:
        self.rig, self._folder, self._stack = rig, folder, stack

    def open(self, mutant: str | None, *, replay: bool = True) -> RecordedRun:
        """Start the dev server, and record from now on."""
        state = self._folder / "service"
        self._server = server = self._stack.enter_context(DevServer(state, work_ms=SLOW_MS, replay=replay))
        self.rig.variables |= {
            "TINKER_BASE_URL": server.url,
            "TINKER_API_KEY": DEV_KEY,
            "NSAI_WORK_PYTHON_ALLOW": "tests.functions",
            **({MUTANT_VARIABLE: mutant} if mutant else {}),
        }
        return self._stack.enter_context(
            recorded(self.rig.variables, self._folder / "history", state / "log.jsonl")
        )

    def train(self) -> tuple[WorkerProcess, JobHandle]:
        """Start a worker and a training job, and return when it has recorded steps."""
        worker = self.rig.start_worker(lease_ttl_s=ENDLESS_S)
        fields = {"base_model": "tiny-lm", "max_steps": STEPS, "checkpoint_policy": {"strategy": "last"}}
        payload = payload_of(self._folder, **fields).model_dump(mode="json")
        handle = submit(Job(kind="training_step", backend="tinkex", payload=payload), self.rig.settings())
        until(handle.steps, "a step", worker.text)
        return worker, handle

    def play(self, **fields: Any) -> tuple[WorkerProcess, JobHandle]:
        """Start a worker and a job of reinforcement learning, and return in the middle of a step's rollouts."""
        self.rig.variables["NSAI_WORK_PYTHON_ALLOW"] = "tests"
        worker = self.rig.start_worker(lease_ttl_s=ENDLESS_S)
        sampling = {"max_tokens": 4, "concurrency": 1}
        handle = submit(rollouts_job(**{"max_steps": 30, "sampling": sampling, **fields}), self.rig.settings())
        self.wait_for_turns(worker, handle)
        return worker, handle

    def wait_for_turns(self, worker: WorkerProcess, handle: JobHandle) -> None:
        """Wait until two turns more of the first step are in the journal."""
        known = len(self.rig.store.rollout_turns(handle.id, 1))
        until(lambda: len(self.rig.store.rollout_turns(handle.id, 1)) > known + 1, "turns", worker.text)

    def lose_session(self) -> None:
        """Let the service forget its sessions, with their runs and recorded sequences."""
        self._server.fault(kind="expire_session")

    def hurry(self) -> None:
        """Let the service work without delay from now on."""
        self._server.fault(kind="latency", work_ms=0)

    def take_away(self) -> None:
        """Take all jobs from their owners, which are alive, and let another worker have them."""

        def reclaim(tx: object) -> None:
            rescuer.reclaim(tx, running_leases(tx))  # type: ignore[arg-type]

        self.rig.store.database.run(reclaim)
        self.rig.start_worker(lease_ttl_s=ENDLESS_S)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An embedded rig whose processes end before its folder is deleted."""
    with ExitStack() as stack:
        rig = Rig.embedded(tmp_path)
        stack.callback(rig.close)
        yield Scene(rig, tmp_path, stack)


def _found(run: RecordedRun, rule: str) -> Callable[[], bool]:
    return lambda: any(violation.rule == rule for violation in run.violations())


def test_a_job_that_is_taken_from_a_live_owner_and_a_dead_one_leaves_a_clean_history(scene: Scene) -> None:
    """What the owner wrote last is in the journal of the next, and what it writes later is refused."""
    run = scene.open(mutant=None)
    owner, handle = scene.train()
    scene.take_away()
    until(lambda: "job.abandoned" in owner.text(), "a write of its owner was refused", owner.text)
    until(lambda: len(scene.rig.store.attempts(handle.id)) > 1, "it has another owner")
    for worker in list(scene.rig.workers):
        worker.kill()
    scene.hurry()
    scene.rig.start_worker(lease_ttl_s=ENDLESS_S)
    assert handle.result(timeout=90)["resume"] == "warm"

    printed = run.require_clean()
    assert all(act in printed for act in ("complete_step ok", "answer ok", " refused"))


def test_a_record_of_a_fenced_owner_is_found(scene: Scene) -> None:
    """The owner is alive when its job is taken, and a mutant of the store lets it go on recording."""
    run = scene.open("accept_fenced_records")
    scene.train()
    scene.take_away()

    until(_found(run, "fenced"), "the checker finds it")


def test_a_takeover_before_the_lease_has_expired_is_found(scene: Scene) -> None:
    """The function notices that it runs for two owners at once."""
    run = scene.open("take_unexpired_leases")
    arguments = {"lock": str(scene.rig.folder / "lock"), "history": str(run.folder), "until": "/nowhere"}
    payload = {"command": "tests.functions:hold_alone", "arguments": arguments}
    job = Job.parse({"kind": "tool_call", "backend": "python", "payload": payload})
    submit(job, scene.rig.settings())
    for _ in range(2):
        scene.rig.start_worker(lease_ttl_s=ENDLESS_S)

    until(_found(run, "function"), "the checker finds it")


def test_a_repeat_that_is_applied_again_is_found(scene: Scene) -> None:
    """A mutant of the backend repeats the open requests of a dead owner, and the service keeps no record."""
    run = scene.open("repeat_without_a_record", replay=False)
    worker, handle = scene.train()
    found = _found(run, "effect")

    while not found():
        # seldom, nothing was under way when the worker was killed: then again
        before = len(handle.steps())
        worker.kill()
        worker = scene.rig.start_worker(lease_ttl_s=ENDLESS_S)
        until(lambda before=before: found() or len(handle.steps()) > before, "a repeat or a step", worker.text)


def test_a_turn_that_is_sampled_again_is_found(scene: Scene) -> None:
    """A mutant of the driver does not use the rollouts that it has read from the journal."""
    run = scene.open("sample_rollouts_again")
    worker, handle = scene.play()
    worker.kill()
    worker = scene.rig.start_worker(lease_ttl_s=ENDLESS_S)

    until(_found(run, "sampled"), "the checker finds it", worker.text)
    assert handle.status().value == "running"


@pytest.mark.parametrize("mutant", [pytest.param(None, marks=pytest.mark.slow), "hide_lost_turns"])
def test_turns_of_a_lost_session_are_sampled_anew_and_reported(scene: Scene, mutant: str | None) -> None:
    """A mutant of the driver does not report them."""
    run = scene.open(mutant)
    worker, handle = scene.play(loss_fn="stable_reinforce")
    scene.lose_session()
    worker.kill()
    scene.hurry()
    worker = scene.rig.start_worker(lease_ttl_s=ENDLESS_S)

    if mutant is not None:
        until(_found(run, "sampled"), "the checker finds it", worker.text)
        return
    handle.result(timeout=90)
    run.require_clean()
    reported = [event.data for event in handle.events() if event.name == "training.rollouts_reused"]
    assert sum(int(str(data["turns_anew"])) for data in reported) > 1
