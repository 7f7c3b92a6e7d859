"""The stage of a chaos run: a training service, a rig, workers that die, and the book that is kept of it all."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.tinkex_dev.server import DEV_KEY, DevProcess
from backends.tinkex_dev.service.service import digest_of_body
from backends.tinkex_dev.wire.requests import AdamFields
from nsai_work import Job, JobHandle, submit_many
from nsai_work.client.connections import publisher
from nsai_work.job import Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.store import WakeUp
from tests.rig import Proxy, Rig, until

LEASE_TTL_S = 8.0
EMPTYING = digest_of_body("optim_step", AdamFields(learning_rate=0.0).model_dump())
"""The step that moves nothing, by which a run that is given up is emptied where the service keeps no record."""


@dataclass
class Stage:
    """Workers by process id, jobs, and the random source that decides everything."""

    rig: Rig
    server: DevProcess
    dice: random.Random
    workers: int = 2
    broker: Proxy | None = None
    counts: Counter[str] = field(default_factory=Counter)
    handles: list[JobHandle] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    _zygote: "subprocess.Popen[str] | None" = None
    _logs: int = 0
    _seen: dict[str, int] = field(default_factory=dict)

    def open(self) -> None:
        """Start the workers."""
        environment = self.rig.environment(lease_ttl_s=LEASE_TTL_S)
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"],
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(self.workers):
            self.start_worker()

    def close(self) -> None:
        """Kill what is left."""
        for pid in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._zygote is not None:
            assert self._zygote.stdin is not None
            assert self._zygote.stdout is not None
            self._zygote.stdin.close()
            self._zygote.wait(30)
            self._zygote.stdout.close()

    def start_worker(self) -> None:
        """One more worker."""
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(f"{self.rig.folder}/worker-{self._logs}.log\n")
        self._zygote.stdin.flush()
        self._logs += 1
        self.alive.append(int(self._zygote.stdout.readline()))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs on the queue."""
        self.handles += submit_many(jobs, self.rig.settings())

    # what can happen

    def kill_one(self) -> None:
        """SIGKILL a worker; another takes its place."""
        victim = self.dice.choice(self.alive)
        os.kill(victim, signal.SIGKILL)
        self.alive.remove(victim)
        self.counts["kills"] += 1
        self.start_worker()

    def kill_successor(self) -> None:
        """Kill a worker, and soon after another: mostly while it takes over what the first one had."""
        self.kill_one()
        time.sleep(self.dice.uniform(0.0, 0.5))
        self.kill_one()

    def freeze_one(self) -> None:
        """Stop a worker for longer than its lease, then let it go on as a zombie."""
        victim = self.dice.choice(self.alive)
        os.kill(victim, signal.SIGSTOP)
        time.sleep(LEASE_TTL_S + 1.5)
        os.kill(victim, signal.SIGCONT)
        self.counts["zombies"] += 1

    def ask_one_to_leave(self) -> None:
        """SIGTERM: a hand-over in order."""
        victim = self.dice.choice(self.alive)
        os.kill(victim, signal.SIGTERM)
        self.alive.remove(victim)
        self.counts["hand-overs"] += 1
        self.start_worker()

    def cut_broker(self) -> None:
        """The broker is away for a moment, and all connections to it are gone."""
        if self.broker is not None:
            self.broker.cut()
            time.sleep(self.dice.uniform(0.1, 1.0))
            self.broker.open()
            self.counts["broker cuts"] += 1

    def send_stale_wake_ups(self) -> None:
        """Hints doubled, late, early, and for nobody."""
        wake_ups = [
            WakeUp(job_id=handle.id, fence=self.dice.randrange(5), priority=self.dice.choice(list(Priority)))
            for handle in self.handles * 3
        ]
        publisher(self.rig.settings()).publish(
            [*wake_ups, WakeUp(job_id="nobody", fence=0, priority=Priority.BATCH)]
        )
        self.counts["stale wake-ups"] += len(wake_ups) + 1

    def disturb_service(self) -> None:
        """A fault of the service, before or after a call took effect."""
        how: dict[str, Any] = self.dice.choice(
            [
                {"status": 500},
                {"status": 503},
                {"status": 429, "retry_after_s": 0.05},
                {"reset": True},
                {"delay_ms": 300},
            ]
        )
        route = self.dice.choice(["forward_backward", "optim_step", "retrieve_future", "save_weights", "*"])
        self.server.fault(kind="route", route=route, after=self.dice.random() < 0.5, count=2, **how)
        self.counts["service faults"] += 1

    def corrupt_run(self) -> None:
        """The service marks a run corrupted: what follows is a restore from a checkpoint."""
        self._strike_run(lambda run: {"kind": "corrupt", "model_id": run})
        self.counts["corruptions"] += 1

    def lose_run(self) -> None:
        """The service forgets a live model."""
        self._strike_run(lambda run: {"kind": "lose_model", "model_id": run})
        self.counts["lost runs"] += 1

    def _strike_run(self, fault: Callable[[str], dict[str, Any]]) -> None:
        current = [run.ref.run_id for handle in self.handles for run in self.rig.store.runs(handle.id)[-1:]]
        if current:
            with contextlib.suppress(OSError):
                # the run may have been replaced in this very moment
                self.server.fault(**fault(self.dice.choice(current)))

    # what is looked at

    def unfinished(self) -> list[JobHandle]:
        """The jobs that have not ended."""
        return [handle for handle in self.handles if not handle.status().ended]

    def wait_for_progress(self, timeout_s: float) -> None:
        """Until every unfinished job has recorded a step further than any before: a job that costs three workers
        in a row without such progress is parked, and rightly so."""
        before = {handle.id: self._furthest(handle) for handle in self.unfinished()}

        def moved() -> bool:
            return all(
                handle.status().ended or self._furthest(handle) > before.get(handle.id, 0)
                for handle in self.unfinished()
            )

        until(moved, "every job makes progress", self.story, timeout_s=timeout_s)

    def _furthest(self, handle: JobHandle) -> int:
        """The furthest step ever: a restore goes back, and does not count again until it has passed that."""
        seen = max(self._seen.get(handle.id, 0), len(handle.steps()))
        self._seen[handle.id] = seen
        return seen

    def story(self) -> str:
        """What to read when something went wrong."""
        lines = [f"{dict(self.counts)}"]
        for handle in self.handles:
            job = handle.job()
            lines.append(f"{handle.id}: {job.status} fence {job.fence} {job.wait_reason or ''} {job.error or ''}")
            lines += [f"    {event.at} {event.name} {event.data}" for event in list(handle.events())[-12:]]
        logs = sorted(self.rig.folder.glob("worker-*.log"), key=lambda path: path.stat().st_mtime)[-3:]
        return "\n".join(
            [*lines, *(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs)]
        )


@contextlib.contextmanager
def training_service(folder: Path, *options: str, work_ms: float) -> Iterator[DevProcess]:
    """The development server in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NSAI_WORK_HOME": str(folder)}
    environment.pop("PYTHONWARNINGS", None)
    with DevProcess(folder / "state", "--work-ms", str(work_ms), *options, environment=environment) as server:
        yield server


def service_variables(server: DevProcess) -> dict[str, str]:
    """What leads a client to the service."""
    return {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}


def training_job(data: Path, *, steps: int, seed: int) -> Job:
    """A small run with checkpoints; its seed makes it differ from the others."""
    return Job.parse(
        {
            "kind": "training_step",
            "backend": "tinkex",
            "payload": {
                "base_model": "tiny-lm",
                "data": {"path": str(data)},
                "lora": {"rank": 4},
                "optimizer": {"learning_rate": 0.01},
                "batch_size": 2,
                "max_steps": steps,
                "seed": seed,
                "checkpoint_policy": {"save_every": 10, "keep_last": 2},
                "recovery": {"enabled": True, "backoff_ms": 10, "max_backoff_ms": 100, "poll_interval_ms": 500},
            },
            "retry_policy": {"max_attempts": 1000, "initial_delay_ms": 20, "max_delay_ms": 200},
        }
    )


def write_lessons(folder: Path) -> Path:
    """A small data set."""
    file = folder / "lessons.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} + {n}?"},
                {"role": "assistant", "content": f"{n + n}."},
            ]
        }
        for n in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@dataclass(frozen=True)
class Truth:
    """What a run that nobody disturbed gives."""

    losses: list[float]
    digest: str


def verify(stage: Stage, handle: JobHandle, truth: Truth) -> None:
    """The job ended once, with the undisturbed run's losses and weights, and the service ran each step once."""
    job = handle.job()
    assert job.status is JobStatus.SUCCEEDED, stage.story()
    names = Counter(event.name for event in handle.events())
    assert names["job.succeeded"] == 1
    steps = handle.steps()
    assert [step.step for step in steps] == list(range(1, len(truth.losses) + 1))
    assert [step.loss for step in steps] == truth.losses, stage.story()
    assert job.result is not None
    assert stage.server.checkpoint_digest(str(job.result["checkpoint"])) == truth.digest
    _verify_service(stage, handle, len(truth.losses))


def _verify_service(stage: Stage, handle: JobHandle, last_step: int) -> None:
    """In every remote run of the lineage each optimizer step was applied once, in order, from where it began; what
    the lineage counts is the last run that made each step."""
    runs = stage.rig.store.runs(handle.id)
    for place, run in enumerate(runs):
        applied = [
            (entry["seq_id"], entry["step"])
            for entry in stage.server.log(model_id=run.ref.run_id, kind="optim_step")
            if entry["digest"] != EMPTYING or place == len(runs) - 1
        ]
        sequence, made = [seq for seq, _ in applied], [step for _, step in applied]
        assert made == list(range(run.from_step + 1, run.from_step + 1 + len(made))), (run, applied)
        assert sequence == sorted(set(sequence)), (run, applied)
        if place == len(runs) - 1:
            assert (made or [run.from_step])[-1] == last_step
        stage.counts["steps applied"] += len(made)
    stage.counts["runs"] += len(runs)
    stage.counts["attempts"] += len(stage.rig.store.attempts(handle.id))
    stage.counts["jobs verified"] += 1
