"""The server's state and what may be done with it, without any HTTP."""

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import JsonValue

from backends.tinkex_dev.checkpoints import Checkpoints
from backends.tinkex_dev.clock import Clock
from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.faults import CorruptionMode, Faults, PauseQueue, QueueState
from backends.tinkex_dev.journal import Journal
from backends.tinkex_dev.lane import Lane, Work
from backends.tinkex_dev.model.adapter import Adapter
from backends.tinkex_dev.model.network import Network
from backends.tinkex_dev.options import SUPPORTED_MODELS, Options
from backends.tinkex_dev.promises import Plain, Promise, Promises
from backends.tinkex_dev.records import (
    CheckpointKind,
    CheckpointRecord,
    LoraRecord,
    RunRecord,
    SamplerRecord,
    SessionRecord,
)
from backends.tinkex_dev.runs import LiveRun, adapter_shape
from backends.tinkex_dev.storage import Storage

T = TypeVar("T")


class Service:
    """Sessions, runs, samplers and promises. Lives on one event loop; arithmetic runs in one thread beside it."""

    def __init__(self, options: Options, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.latency_ms = options.latency_ms
        self.work_ms = options.work_ms
        self.replay = options.replay
        self.faults = Faults()
        self.queue = PauseQueue(state=QueueState.ACTIVE)
        self._working = asyncio.Event()
        self._working.set()
        self.promises = Promises()
        self.storage = Storage(options.state_dir)
        self.journal = Journal(options.state_dir / "log.jsonl", clock)
        self.checkpoints = Checkpoints(self.storage, clock)
        self.sessions = {session.id: session for session in self.storage.sessions()}
        self.runs = {run.id: run for run in self.storage.runs()}
        self.samplers = {sampler.id: sampler for sampler in self.storage.samplers()}
        self.live: dict[str, LiveRun] = {}
        self.snapshots: dict[str, Adapter] = {}
        self._heard: dict[str, float] = {}
        self._networks: dict[str, Network] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="tinkex-dev-compute")

    def close(self) -> None:
        """Finish what is being computed and close the files."""
        for run in self.live.values():
            run.lane.close("the server is shutting down")
        self._compute.shutdown(wait=True, cancel_futures=True)
        self.journal.close()

    async def compute(self, work: Callable[[], T]) -> T:
        """Run arithmetic or file work in the compute thread, after all that was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)

    def network(self, name: str) -> Network:
        """The base model of that name.

        Raises:
            Refused: 400 if the server does not have it.
        """
        if name not in SUPPORTED_MODELS:
            raise Refused(400, f"base_model {name!r} is not supported; there are {', '.join(SUPPORTED_MODELS)}")
        if name not in self._networks:
            self._networks[name] = Network(name, self.options.seed)
        return self._networks[name]

    def open_session(self, **facts: object) -> SessionRecord:
        """A new session."""
        session = SessionRecord.model_validate({"id": uuid.uuid4().hex, "created_at": self.clock.now(), **facts})
        self.sessions[session.id] = session
        self._heard[session.id] = self.clock.seconds()
        self.storage.save_session(session)
        return session

    def hear(self, session_id: str) -> SessionRecord:
        """Note that a session is alive.

        Raises:
            Refused: 404 if there is no such session or it has ended.
        """
        self.end_stale_sessions()
        session = self.sessions.get(session_id)
        if session is None:
            raise Refused(404, f"Session {session_id!r} not found")
        if session_id not in self._heard:
            raise Refused(404, f"Session {session_id!r} has ended; create a new one")
        self._heard[session_id] = self.clock.seconds()
        return session

    def end_stale_sessions(self) -> None:
        """End every session that has not been heard of for too long."""
        limit = self.clock.seconds() - self.options.session_ttl_s
        for session_id in [key for key, heard in self._heard.items() if heard < limit]:
            self.end_session(session_id)

    def end_session(self, session_id: str) -> None:
        """End a session: its live models are gone, what it saved stays."""
        self._heard.pop(session_id, None)
        for sampler_id in [key for key in self.snapshots if key.startswith(f"{session_id}:")]:
            del self.snapshots[sampler_id]
        for run in [run for run in self.live.values() if run.record.session_id == session_id]:
            self.lose(run.record.id, "its session ended")

    def open_sessions(self) -> list[str]:
        """The ids of the sessions that have not ended."""
        return list(self._heard)

    def lose(self, run_id: str, reason: str) -> None:
        """Drop a live model, if it is there."""
        run = self.live.pop(run_id, None)
        if run is not None:
            run.lane.close(f"Model {run_id} was unloaded: {reason}")

    def create_run(
        self,
        session_id: str,
        model_seq_id: int,
        *,
        base_model: str,
        lora: LoraRecord,
        user_metadata: dict[str, JsonValue] | None,
    ) -> LiveRun:
        """A new live model, its id made of its session's and its number in it.

        Raises:
            Refused: 429 if there are as many live models as allowed, 409 if the number is taken.
        """
        run_id = f"{session_id}:train:{model_seq_id}"
        if run_id in self.runs:
            raise Refused(409, f"model_seq_id {model_seq_id} of session {session_id} is taken")
        limit = self.options.max_runs
        if limit is not None and len(self.live) >= limit:
            raise Refused(429, f"concurrent LoRA rate limit hit: {limit} live models", headers={"Retry-After": "1"})
        now = self.clock.now()
        record = RunRecord(
            id=run_id,
            session_id=session_id,
            base_model=base_model,
            lora=lora,
            created_at=now,
            last_request_time=now,
            user_metadata=user_metadata,
        )
        run = LiveRun(
            record, self.network(base_model), Adapter(adapter_shape(lora), lora.seed), Lane(self.promises.keep)
        )
        self.runs[run_id] = record
        self.live[run_id] = run
        self.storage.save_run(record)
        return run

    def live_run(self, run_id: str) -> LiveRun:
        """The live model of that id; its session is thereby heard of.

        Raises:
            Refused: 404 if it is not loaded.
        """
        self.end_stale_sessions()
        run = self.live.get(run_id)
        if run is None:
            known = "its session ended or the server was restarted" if run_id in self.runs else "unknown id"
            raise Refused(404, f"Model {run_id} is not loaded ({known})")
        self._heard[run.record.session_id] = self.clock.seconds()
        self.update_run(run, last_request_time=self.clock.now())
        return run

    def update_run(self, run: LiveRun, *, save: bool = False, **changes: object) -> None:
        """Change what is known about a run."""
        run.record = run.record.model_copy(update=changes)
        self.runs[run.record.id] = run.record
        if save:
            self.storage.save_run(run.record)

    def submit(
        self,
        run: LiveRun,
        kind: str,
        seq_id: int | None,
        digest: str,
        work: Work,
        *,
        check: Callable[[], None] | None = None,
    ) -> Promise:
        """Put an operation in the run's lane, or find the promise of the same request made before.

        ``check`` may refuse a request that is not such a repetition.
        """
        if seq_id is not None and self.replay:
            earlier = run.asked_before(seq_id, digest)
            if earlier is not None:
                return earlier
            if run.lane.is_past(seq_id):
                raise Refused(
                    409, f"seq_id {seq_id} is in the past: model {run.record.id} is at {run.lane.next_seq}"
                )
        if check is not None:
            check()
        promise = self.promises.make(kind, run.record.id)
        if seq_id is not None:
            run.remember(seq_id, digest, promise)
        run.lane.submit(seq_id, promise, work)
        return promise

    async def load(
        self, run: LiveRun, saved: CheckpointRecord, *, seq_id: int | None, digest: str, optimizer: bool
    ) -> Plain:
        """Replace the run's weights, and its optimizer if asked, by a checkpoint's.

        Raises:
            OperationFailed: the checkpoint is damaged or does not fit the run.
        """
        run.refuse_if_poisoned()
        if saved.kind is not CheckpointKind.TRAINING:
            raise OperationFailed(f"{saved.path} is for sampling; training resumes from weights/NAME", "user")
        if (saved.base_model, adapter_shape(saved.lora)) != (run.record.base_model, run.adapter.shape):
            raise OperationFailed(
                f"{saved.path} is of {saved.base_model} with rank {saved.lora.rank}; "
                f"model {run.record.id} is of {run.record.base_model} with rank {run.record.lora.rank}",
                "user",
            )
        warm = optimizer and not self.faults.take_cold_load()
        run.adapter = await self.compute(lambda: self.checkpoints.read(saved, optimizer=warm))
        self.note(run, "load_weights", seq_id, digest, path=saved.path, optimizer=optimizer)
        return Plain({"type": "load_weights", "path": saved.path, "model_id": run.record.id})

    def pause(self, how: PauseQueue) -> None:
        """Stop beginning operations, or go on if the state is ``active``."""
        self.queue = how
        if how.state is QueueState.ACTIVE:
            self._working.set()
        else:
            self._working.clear()

    async def take_time(self) -> None:
        """Wait until the queue is not paused, and as long as the server was told that operations take."""
        await self._working.wait()
        if self.work_ms:
            await asyncio.sleep(self.work_ms / 1000)

    def note(self, run: LiveRun, kind: str, seq_id: int | None, digest: str, **facts: object) -> None:
        """Account for an operation that took effect, and let a fault that waits for it strike."""
        self.journal.write(
            model_id=run.record.id, seq_id=seq_id, kind=kind, digest=digest, step=run.adapter.steps, **facts
        )

    async def poison_if_due(self, run: LiveRun) -> None:
        """Corrupt the run if a fault waited for its present step."""
        mode = self.faults.corruption_due(run.record.id, run.adapter.steps)
        if mode is not None:
            await self.poison(run, mode)

    async def poison(self, run: LiveRun, mode: CorruptionMode) -> None:
        """Corrupt a live run."""
        await self.compute(lambda: run.poison(mode))
        self.update_run(run, save=True)
        self.journal.write(model_id=run.record.id, seq_id=None, kind="corrupted", mode=mode.value)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Let something run by itself; the service keeps hold of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def snapshot(self, sampler_id: str) -> Adapter:
        """The weights that were saved for one sampling session alone.

        Raises:
            Refused: 404 if they are gone with their session.
        """
        found = self.snapshots.get(sampler_id)
        if found is None:
            raise Refused(404, f"The weights of sampling session {sampler_id} are gone: its session ended")
        return found

    def add_sampler(self, sampler: SamplerRecord) -> SamplerRecord:
        """Remember a sampling session."""
        self.samplers[sampler.id] = sampler
        self.storage.save_sampler(sampler)
        return sampler


def digest_of_body(kind: str, parts: Mapping[str, object], *arrays: bytes) -> str:
    """SHA-256 of a request's meaning, the same whichever encoding it came in."""
    sha = hashlib.sha256(f"{kind}:{sorted(parts.items())!r}".encode("utf-8", "replace"))
    for array in arrays:
        sha.update(len(array).to_bytes(8, "little"))
        sha.update(array)
    return sha.hexdigest()


def ttl_end(now: datetime, ttl_seconds: int | None) -> datetime | None:
    """When something with that time to live expires."""
    return None if ttl_seconds is None else now + timedelta(seconds=ttl_seconds)
