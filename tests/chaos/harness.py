"""The harness of the chaos tests: a training service, a rig, worker processes, and the injection of faults."""

import contextlib
import os
import random
import secrets
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from backends.tinkex_dev.server import DEV_KEY
from backends.tinkex_dev.service.service import digest_of_body
from backends.tinkex_dev.wire.requests import AdamFields
from nsai_work import Job, JobHandle, submit_many
from nsai_work.client.connections import publisher
from nsai_work.job import Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.store import WakeUp
from nsai_work.store.schema import jobs
from tests.forked_server import ForkedServer
from tests.rig import Proxy, Rig, WorkerProcess, until

LEASE_TTL_S = 8.0
NULL_STEP_DIGEST = digest_of_body("optim_step", AdamFields(learning_rate=0.0).model_dump())
"""The digest of a step with learning rate 0, which discards the gradients of an abandoned run."""


@dataclass
class Harness:
    """Worker processes, jobs, and the random generator that determines all faults."""

    rig: Rig
    server: ForkedServer
    rng: random.Random
    workers: int = 2
    broker: Proxy | None = None
    counts: Counter[str] = field(default_factory=Counter)
    handles: list[JobHandle] = field(default_factory=list)
    alive: list[WorkerProcess] = field(default_factory=list)

    def open(self) -> None:
        """Start the workers."""
        for _ in range(self.workers):
            self.start_worker()

    def start_worker(self) -> None:
        """Start a worker."""
        self.alive.append(self.rig.start_worker(ready=False, lease_ttl_s=LEASE_TTL_S))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit jobs twice, as a client does that has not seen the answer: the second time nothing is created."""
        keyed = [job.model_copy(update={"idempotency_key": secrets.token_hex(8)}) for job in jobs]
        handles = submit_many(keyed, self.rig.settings())
        again = [job.model_copy(update={"id": str(uuid.uuid4())}) for job in keyed]
        assert [handle.id for handle in submit_many(again, self.rig.settings())] == [
            handle.id for handle in handles
        ]
        self.handles += handles

    # faults

    def kill_worker(self) -> None:
        """Kill a worker with SIGKILL, and start another."""
        victim = self.rng.choice(self.alive)
        victim.kill()
        self.alive.remove(victim)
        self.counts["kills"] += 1
        self.start_worker()

    def kill_successor(self) -> None:
        """Kill a worker, then another, mostly while that one takes over the jobs of the first."""
        self.kill_worker()
        time.sleep(self.rng.uniform(0.0, 0.5))
        self.kill_worker()

    def freeze_worker(self) -> None:
        """Stop a worker for longer than its lease, then continue it as a zombie."""
        victim = self.rng.choice(self.alive)
        victim.signal(signal.SIGSTOP)
        time.sleep(LEASE_TTL_S + 1.5)
        victim.signal(signal.SIGCONT)
        self.counts["zombies"] += 1

    def terminate_worker(self) -> None:
        """Terminate a worker with SIGTERM, so that it hands its jobs over, and start another."""
        victim = self.rng.choice(self.alive)
        victim.signal(signal.SIGTERM)
        self.alive.remove(victim)
        self.counts["hand-overs"] += 1
        self.start_worker()

    def cut_broker(self) -> None:
        """Close all connections to the broker, and refuse new ones for a moment."""
        if self.broker is not None:
            self.broker.cut()
            time.sleep(self.rng.uniform(0.1, 1.0))
            self.broker.open()
            self.counts["broker cuts"] += 1

    def send_stale_wake_ups(self) -> None:
        """Send wake-ups with wrong fences, duplicates, and one of an unknown job."""
        wake_ups = [
            WakeUp(job_id=handle.id, fence=self.rng.randrange(5), priority=self.rng.choice(list(Priority)))
            for handle in self.handles * 3
        ]
        publisher(self.rig.settings()).publish(
            [*wake_ups, WakeUp(job_id="unknown", fence=0, priority=Priority.BATCH)]
        )
        self.counts["stale wake-ups"] += len(wake_ups) + 1

    def disturb_service(self) -> None:
        """Inject a fault into the service, before or after a request takes effect."""
        fault: dict[str, Any] = self.rng.choice(
            [
                {"status": 500},
                {"status": 503},
                {"status": 429, "retry_after_s": 0.05},
                {"reset": True},
                {"delay_ms": 300},
            ]
        )
        route = self.rng.choice(["forward_backward", "optim_step", "retrieve_future", "save_weights", "*"])
        self.server.fault(kind="route", route=route, after=self.rng.random() < 0.5, count=2, **fault)
        self.counts["service faults"] += 1

    def corrupt_run(self) -> None:
        """Mark a run corrupted, which leads to a restore from a checkpoint."""
        self._inject_into_run(lambda run: {"kind": "corrupt", "model_id": run})
        self.counts["corruptions"] += 1

    def lose_run(self) -> None:
        """Make the service lose a live model."""
        self._inject_into_run(lambda run: {"kind": "lose_model", "model_id": run})
        self.counts["lost runs"] += 1

    def _inject_into_run(self, fault: Callable[[str], dict[str, Any]]) -> None:
        run_ids = [run.ref.run_id for handle in self.handles for run in self.rig.store.runs(handle.id)[-1:]]
        if run_ids:
            with contextlib.suppress(OSError):
                # the run may have been replaced meanwhile
                self.server.fault(**fault(self.rng.choice(run_ids)))

    # observations

    def unfinished(self) -> dict[str, int]:
        """The highest step ever recorded of each job that has not ended: one query, since it is asked all the
        time. Steps that are repeated after a restore are no progress."""
        ids = [handle.id for handle in self.handles]
        ended = [str(status) for status in JobStatus if status.ended]
        query = select(jobs.c.id, jobs.c.progress).where(jobs.c.id.in_(ids), jobs.c.status.not_in(ended))
        rows = self.rig.store.database.read(lambda tx: tx.connection.execute(query).all())
        return {row.id: row.progress for row in rows}

    def wait_for_progress(self, timeout_s: float) -> None:
        """Wait until every unfinished job has recorded a later step than ever before. A job during which three
        workers die without progress is parked, as designed. Fails when none of them has made progress for
        ``timeout_s``: a busy machine is slow, but not stuck."""
        before = self.unfinished()
        while waiting := self._without_progress(before):
            until(
                lambda: len(self._without_progress(before)) < len(waiting),
                "another job makes progress",
                self.report,
                timeout_s=timeout_s,
            )

    def _without_progress(self, before: Mapping[str, int]) -> list[str]:
        self._reap()
        return [job_id for job_id, step in self.unfinished().items() if step <= before[job_id]]

    def _reap(self) -> None:
        """Collect the workers that have ended: a zombie process counts as alive."""
        for worker in self.rig.workers:
            worker.process.poll()

    def report(self) -> str:
        """Return counts, job states, events and logs, for the message of a failed assertion."""
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
def training_service(folder: Path, *options: str, work_ms: float) -> Iterator[ForkedServer]:
    """Run the development server in a process."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NSAI_WORK_HOME": str(folder)}
    environment.pop("PYTHONWARNINGS", None)
    with ForkedServer(folder / "state", "--work-ms", str(work_ms), *options, environment=environment) as server:
        yield server


def effects_of(folder: Path) -> Path:
    """Return the file to which the server of a folder writes what it applies."""
    return folder / "state" / "log.jsonl"


def service_variables(server: ForkedServer) -> dict[str, str]:
    """Return the environment with which a client uses the service."""
    return {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}


def training_job(data: Path, *, steps: int, seed: int) -> Job:
    """Return a small training job with checkpoints and evaluations; the seed decides on what: a mixture, pairs,
    the targets of a teacher, or a file."""
    mixture = {"sources": [{"path": str(data), "weight": 3.0}, {"path": str(more_beside(data))}]}
    kinds: list[dict[str, Any]] = [
        {"data": mixture},
        {"method": "dpo", "data": {"path": str(pairs_beside(data))}},
        {"method": "distill", "teacher": "llama-3.2-1b", "top_k": 3},
        {},
    ]
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
                "eval": {"every": 7, "split": 0.4},
                "checkpoint_policy": {"save_every": 10, "keep_last": 2},
                "recovery": {"enabled": True, "backoff_ms": 10, "max_backoff_ms": 100, "poll_interval_ms": 500},
                **kinds[seed % len(kinds)],
            },
            "retry_policy": {"max_attempts": 1000, "initial_delay_ms": 20, "max_delay_ms": 200},
        }
    )


def more_beside(data: Path) -> Path:
    """Return the second file of a mixture with a file of conversations."""
    return data.with_name("more.jsonl")


def pairs_beside(data: Path) -> Path:
    """Return the file of pairs that belongs to a file of conversations."""
    return data.with_name("pairs.jsonl")


def evaluations(handle: JobHandle) -> list[tuple[int, dict[str, float]]]:
    """Return the evaluations that count, with their steps."""
    return [(record.step, record.metrics) for record in handle.evaluations()]


@dataclass(frozen=True)
class Reference:
    """The losses, the evaluations and the weights' digest of an undisturbed run."""

    losses: list[float]
    evaluations: list[tuple[int, dict[str, float]]]
    digest: str


def verify(harness: Harness, handle: JobHandle, reference: Reference) -> None:
    """Check that the job succeeded once, with the reference's losses and weights, and applied each step once."""
    job = handle.job()
    assert job.status is JobStatus.SUCCEEDED, harness.report()
    names = Counter(event.name for event in handle.events())
    assert names["job.succeeded"] == 1
    steps = handle.steps()
    assert [step.step for step in steps] == list(range(1, len(reference.losses) + 1))
    assert [step.loss for step in steps] == reference.losses, harness.report()
    assert evaluations(handle) == reference.evaluations, harness.report()
    assert job.result is not None
    assert harness.server.checkpoint_digest(str(job.result["checkpoint"])) == reference.digest
    _verify_service(harness, handle, len(reference.losses))


def _verify_service(harness: Harness, handle: JobHandle, last_step: int) -> None:
    """Check that each remote run of the lineage applied its optimizer steps once, and in order."""
    runs = harness.rig.store.runs(handle.id)
    for index, run in enumerate(runs):
        applied = [
            (entry["seq_id"], entry["step"])
            for entry in harness.server.log(model_id=run.ref.run_id, kind="optim_step")
            if entry["digest"] != NULL_STEP_DIGEST or index == len(runs) - 1
        ]
        seq_ids, steps = [seq_id for seq_id, _ in applied], [step for _, step in applied]
        assert steps == list(range(run.from_step + 1, run.from_step + 1 + len(steps))), (run, applied)
        assert seq_ids == sorted(set(seq_ids)), (run, applied)
        if index == len(runs) - 1:
            assert (steps or [run.from_step])[-1] == last_step
        harness.counts["steps applied"] += len(steps)
    harness.counts["runs"] += len(runs)
    harness.counts["attempts"] += len(harness.rig.store.attempts(handle.id))
    harness.counts["jobs verified"] += 1
