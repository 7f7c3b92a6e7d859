"""Stored training runs for the tests and screenshots of the page: rows as workers write them."""

import itertools
import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, insert, update

from nsai_work import Job
from nsai_work.errors import WorkerLost
from nsai_work.store import Store
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import (
    attempts,
    checkpoints,
    evaluations,
    events,
    jobs,
    rollout_turns,
    rollouts,
    runs,
    steps,
    workers,
)
from nsai_work.training.rollouts.episodes.turns import Turn, packed

HOSTS = ("host-1/b/n/4398/1/a", "host-2/b/n/4411/1/b")
STEP_S = 3.1
KILLED_AT, CORRUPTED_AT, RESTORED_FROM = 61, 87, 80


def training_job(
    name: str | None = None, *, learning_rate: float = 1e-4, max_steps: int = 200, **fields: Any
) -> Job:
    """A training job."""
    payload = {
        "base_model": "llama-3.2-1b",
        "data": {"path": "/data/tides.jsonl"},
        "max_steps": max_steps,
        "lora": {"rank": 16},
        "optimizer": {"learning_rate": learning_rate},
    }
    return Job(kind="training_step", backend="tinkex", name=name, payload=payload, **fields)


@dataclass
class StoredRun:
    """Writes the rows of a run that was killed after step 61 and corrupted after step 87."""

    store: Store
    job: Job
    done: int
    runs: bool = True
    noise: random.Random = field(default_factory=lambda: random.Random(1))
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def write(self) -> None:
        """Write all rows in one transaction."""
        self.now = datetime.now(UTC)
        self.began = self.now - timedelta(seconds=STEP_S * (self.done + 14))
        self.seq = self.store.database.read(lambda tx: seq_of(tx, self.job.id))
        self._lineage()
        for step in range(1, self.done + 1):
            self._step(step)
        if not self.runs:
            self._event("job.succeeded", self.done + 14, {})
        tables: list[Table] = [attempts, runs, steps, evaluations, checkpoints, events]
        with self.store.database.transaction() as tx:
            tx.connection.execute(update(jobs).where(jobs.c.seq == self.seq).values(self._state()))
            own = events.c.job_seq == self.seq
            tx.connection.execute(update(events).where(own).values(at=self.began - timedelta(seconds=6)))
            for table in tables:
                if rows := self.rows.get(table.name):
                    tx.connection.execute(insert(table), rows)

    def _state(self) -> dict[str, Any]:
        result = {
            "loss": 0.4171,
            "first_loss": 3.0412,
            "steps": self.done,
            "model": "tinker://run-02b7c11e/sampler_weights/final",
        }
        return {
            "status": "running" if self.runs else "succeeded",
            "wait_reason": None,
            "attempt": 2,
            "fence": 2,
            "worker_id": HOSTS[1],
            "lease_ttl_ms": 10_000_000,
            "created_at": self.began - timedelta(seconds=6),
            "started_at": self.began,
            "completed_at": None if self.runs else self.now,
            "result": None if self.runs else result,
        }

    def _at(self, steps_before: float) -> datetime:
        return self.began + timedelta(seconds=STEP_S * steps_before)

    def _add(self, table: Table, **row: Any) -> None:
        self.rows.setdefault(table.name, []).append({"job_seq": self.seq, **row})

    def _event(self, name: str, when: float, data: dict[str, Any]) -> None:
        self._add(events, at=self._at(when), name=name, data=data)

    def _lineage(self) -> None:
        killed, ended = self._at(KILLED_AT), None if self.runs else self.now
        common = {"backend": "tinkex"}
        died = WorkerLost(f"worker {HOSTS[0]} died or stopped answering while it had the job").failure()
        first = {"fence": 1, "attempt": 1, "worker_id": HOSTS[0], "started_at": self.began, "ended_at": killed}
        self._add(attempts, **common, **first, outcome="lost", failure=failure_json(died))
        last = {"fence": 2, "attempt": 2, "worker_id": HOSTS[1], "started_at": self._at(KILLED_AT + 0.3)}
        outcome = None if self.runs else "succeeded"
        self._add(attempts, **common, **last, ended_at=ended, outcome=outcome, failure=None)
        reason = "the service marked the run corrupted"
        self._run(1, "run-01a219d8", 0, "warm", 0, None, reason)
        self._run(2, "run-02b7c11e", RESTORED_FROM, "exact", 7, "tinker://run-01a219d8/weights/g1-s000080", None)
        self._event("job.running", 0, {"from": "queued", "attempt": 1, "worker_id": HOSTS[0]})
        self._event("resume.fresh", 0, {"generation": 1, "run_id": "run-01a219d8", "from_step": 0})

    def _run(
        self, number: int, name: str, start: int, resume: str, lost: int, source: str | None, reason: str | None
    ) -> None:
        ref = {"backend": "tinkex", "run_id": name}
        began = self._at(0 if number == 1 else CORRUPTED_AT + 1)
        row = {"generation": number, "ref": ref, "from_step": start, "first_seq_id": 1, "resume": resume}
        history = {"restored_from": source, "end_reason": reason, "lost_steps": lost, "restart_reason": None}
        self._add(runs, **row, **history, started_at=began)

    def _loss(self, step: int) -> float:
        return 2.7 * math.exp(-step / 32) + 0.42 + self.noise.gauss(0, 0.03)

    def _step(self, step: int) -> None:
        restored = step > RESTORED_FROM
        generation, when = (2, step + 9) if restored else (1, step)
        if step == RESTORED_FROM + 1:
            self._restore()
        if step == KILLED_AT + 1:
            self._take_over()
        loss = self._loss(step)
        self._step_row(step, generation, loss, when, superseded_by=None)
        data = {
            "step": step,
            "total_steps": self.job.payload["max_steps"],
            "loss": loss,
            "tokens_per_s": 4816.0,
            "generation": generation,
        }
        self._event("step", when, data)
        if step % 20 == 0:
            self._save(step, generation, loss + 0.05, when)

    def _step_row(self, step: int, generation: int, loss: float, when: float, superseded_by: int | None) -> None:
        row = {"step": step, "generation": generation, "superseded_by": superseded_by, "epoch": 0, "loss": loss}
        self._add(steps, **row, tokens=14_000, learning_rate=1e-4, metrics={}, recorded_at=self._at(when))

    def _take_over(self) -> None:
        reason = "worker host-1/4398 died (its lock was released)"
        self._event("job.queued", KILLED_AT + 0.1, {"from": "running", "reason": reason})
        self._event("job.running", KILLED_AT + 0.3, {"from": "queued", "attempt": 2})
        taken = {"generation": 1, "run_id": "run-01a219d8", "step": KILLED_AT, "replayed": 2}
        self._event("resume.warm", KILLED_AT + 0.3, taken)

    def _restore(self) -> None:
        for step in range(RESTORED_FROM + 1, CORRUPTED_AT + 1):
            self._step_row(step, 1, self._loss(step) + 0.06, step, superseded_by=2)
            self._event("step", step, {"step": step, "total_steps": 200, "loss": 0.7, "generation": 1})
        when, reason = CORRUPTED_AT + 1, "the service marked the run corrupted"
        self._event("training.incident", when, {"error": "corrupted", "reason": reason, "step": CORRUPTED_AT + 1})
        restored = {"generation": 2, "run_id": "run-02b7c11e", "from_step": RESTORED_FROM, "lost_steps": 7}
        self._event("resume.restored", when + 0.3, restored)
        self._event("resume.verified", when + 2, {"step": RESTORED_FROM + 2, "generation": 2})

    def _save(self, step: int, generation: int, loss: float, when: float) -> None:
        name, metrics = f"g{generation}-s{step:06d}", {"eval.loss": loss}
        own = {"step": step, "generation": generation}
        measured = {"metrics": metrics, "rows": 20, "tokens": 900, "recorded_at": self._at(when)}
        self._add(evaluations, **own, **measured, superseded_by=None)
        status = {"status": "committed" if step >= 60 else "deleted", "promoted": step == 60, "final": False}
        places = {"path": f"tinker://run/weights/{name}", "sampler_path": None, "size_bytes": None}
        times = {"created_at": self._at(when), "expires_at": None, "note": None}
        self._add(checkpoints, name=name, **own, **status, **places, **times, metric=loss)
        self._event("evaluation", when, {**own, "metrics": metrics})
        self._event("checkpoint.committed", when, {**own, "name": name, "metric": loss})


def reinforcement_job(name: str) -> Job:
    """A job of reinforcement learning."""
    payload = {
        "method": "rl",
        "base_model": "llama-3.2-1b",
        "environment": {"name": "sums:Sums"},
        "groups_per_step": 2,
        "group_size": 4,
        "max_steps": 40,
    }
    return Job(kind="training_step", backend="tinkex", name=name, payload=payload)


def add_rollouts(store: Store, job: Job, steps: int, question: str = "What is 17 and 25?") -> None:
    """Write the rows of a job's rollouts: eight a step, of which the last failed."""
    noise, now = random.Random(3), datetime.now(UTC)
    ended, turns = [], []
    with store.database.transaction() as tx:
        seq = seq_of(tx, job.id)
        for step, group, member in itertools.product(range(1, steps + 1), range(2), range(4)):
            place = {"job_seq": seq, "step": step, "generation": 1, "group_number": group, "member": member}
            failed = (group, member) == (1, 3)
            reward = None if failed else min(1.0, max(0.0, 0.1 + step / steps * 0.7 + noise.gauss(0, 0.15)))
            outcome = {
                "status": "failed" if failed else "done",
                "reward": reward,
                "metrics": {},
                "recorded_at": now,
            }
            end = {"reason": "the environment raised ValueError" if failed else "stop", "turns": 1, "tokens": 7}
            ended.append({**place, "task": group, "weights_step": step - 1, **outcome, **end, "truncated": 0})
            data = packed(
                Turn(
                    messages=({"role": "user", "content": question},),
                    answer={"role": "assistant", "content": f"It is {42 - member}."},
                    kept=0,
                    prompt=(1, 2),
                    tokens=(3,),
                    logprobs=(-0.5,),
                    stopped=True,
                )
            )
            turns.append({**place, "attempt": 0, "turn": 0, "data": data, "recorded_at": now})
        tx.connection.execute(insert(rollouts), ended)
        tx.connection.execute(insert(rollout_turns), turns)


def add_workers(store: Store) -> None:
    """Write the rows of the two workers of these runs, alive for two days to come."""
    now = datetime.now(UTC)
    common = {
        "version": "0.1.0",
        "backends": {"fake": "fake", "tinkex": "team-a"},
        "started_at": now - timedelta(hours=3),
        "seen_at": now + timedelta(days=2),
        "seen_every_ms": None,
        "declined": {"peft": "torch is not installed"},
    }
    rows = []
    for name in HOSTS:
        host, _, _, pid, *_ = name.split("/")
        rows.append({**common, "id": name, "host": host, "pid": int(pid)})
    with store.database.transaction() as tx:
        tx.connection.execute(insert(workers), rows)
