"""The server's state and operations, independent of HTTP."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import JsonValue

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.faults import CorruptionMode, Faults, PauseQueue, ServerQueueState
from backends.tinkex_dev.options import ServerOptions
from backends.tinkex_dev.service.completions import Completions
from backends.tinkex_dev.service.custom_losses import CustomLosses
from backends.tinkex_dev.service.lane import ServerLane, Work
from backends.tinkex_dev.service.promises import Plain, Promise, Promises, Result
from backends.tinkex_dev.service.run import ServerRun
from backends.tinkex_dev.service.sequences import Sequences
from backends.tinkex_dev.service.sessions import Sessions
from backends.tinkex_dev.storage.checkpoints import Checkpoints
from backends.tinkex_dev.storage.effect_log import EffectLog
from backends.tinkex_dev.storage.records import (
    LoraRecord,
    RunRecord,
    SamplerRecord,
    SaveKind,
    SessionRecord,
    StoredCheckpoint,
)
from backends.tinkex_dev.storage.state_folder import StateFolder
from backends.tinkex_dev.storage.tokenizer_folder import write_tokenizer
from backends.tinkex_dev.wire.requests import ADAM, OptimizerFamily
from backends.tiny_lm.adapter import Adapter
from backends.tiny_lm.network import BASE_MODELS, Network

T = TypeVar("T")


class Service:
    """Sessions, runs, samplers and promises.

    Not thread-safe: all methods run on one event loop. Arithmetic runs in a separate single compute thread.
    """

    def __init__(self, options: ServerOptions, clock: ServerClock) -> None:
        self.options = options
        self.clock = clock
        self.latency_ms = options.latency_ms
        self.work_ms = options.work_ms
        self.replay = options.replay
        self.faults = Faults()
        self.queue = PauseQueue(state=ServerQueueState.ACTIVE)
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self.promises = Promises()
        self.folder = StateFolder(options.state_dir)
        self.tokenizer = str(write_tokenizer(options.state_dir))
        self.effect_log = EffectLog(options.state_dir / "log.jsonl", clock)
        self.checkpoints = Checkpoints(self.folder, clock, opaque=options.opaque_paths)
        self.sessions = Sessions(self.folder, clock, ttl_s=options.session_ttl_s)
        self.runs = {run.id: run for run in self.folder.runs()}
        self.samplers = {sampler.id: sampler for sampler in self.folder.samplers()}
        self.live: dict[str, ServerRun] = {}
        self.snapshots: dict[str, Adapter] = {}
        self.inflight: dict[str, Adapter] = {}
        self.sequences = Sequences(clock)
        self.completions = Completions()
        self.custom_losses = CustomLosses()
        self._networks: dict[str, Network] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="tinkex-dev-compute")

    def close(self) -> None:
        """Finish the running computation and close the files."""
        for run in self.live.values():
            run.lane.close("the server is shutting down")
        self._compute.shutdown(wait=True, cancel_futures=True)
        self.effect_log.close()

    async def compute(self, work: Callable[[], T]) -> T:
        """Run arithmetic or file work in the compute thread, in order of submission."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)

    def network(self, name: str) -> Network:
        """The base model of that name.

        Raises:
            Refused: 400 for an unknown name.
        """
        if name not in BASE_MODELS:
            raise Refused(400, f"base_model {name!r} is not supported; expected one of {', '.join(BASE_MODELS)}")
        if name not in self._networks:
            self._networks[name] = Network(name, self.options.seed)
        return self._networks[name]

    def touch_session(self, session_id: str) -> SessionRecord:
        """Reset a session's idle time, and return its record.

        Raises:
            Refused: 404 if the session does not exist or has ended.
        """
        self.end_stale_sessions()
        session = self.sessions.get_open(session_id)
        self.sessions.touch(session_id)
        return session

    def end_stale_sessions(self) -> None:
        """End every session that was idle for longer than ``session_ttl_s``."""
        for session_id in self.sessions.stale_ids():
            self.end_session(session_id)

    def end_session(self, session_id: str) -> None:
        """End a session: its live models are unloaded, its checkpoints stay."""
        self.sessions.end(session_id)
        for sampler_id in [key for key in self.snapshots if key.startswith(f"{session_id}:")]:
            del self.snapshots[sampler_id]
        for run_id in [key for key in self.inflight if key.startswith(f"{session_id}:")]:
            del self.inflight[run_id]
        self.sequences.end_session(session_id)
        self.completions.end_session(session_id)
        self.custom_losses.end_session(session_id)
        for run in [run for run in self.live.values() if run.record.session_id == session_id]:
            self.unload(run.record.id, "its session ended")

    def unload(self, run_id: str, reason: str) -> None:
        """Unload a live model, if it is loaded."""
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
        optimizer: OptimizerFamily = ADAM,
    ) -> ServerRun:
        """Create a live model; its id is composed of the session id and ``model_seq_id``.

        Raises:
            Refused: 429 at the limit of live models, 409 if the number is taken.
        """
        run_id = self._new_run_id(session_id, model_seq_id)
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
            optimizer=optimizer,
        )
        run = ServerRun(
            record,
            self.network(base_model),
            Adapter(lora.shape, lora.seed),
            ServerLane(self.promises.resolve, order=self.options.order),
        )
        self.runs[run_id] = record
        self.live[run_id] = run
        self.folder.save_run(record)
        return run

    def list_run(self, session_id: str, model_seq_id: int, saved: StoredCheckpoint) -> RunRecord:
        """Add a run that owns a copy of a checkpoint and is not live.

        Raises:
            Refused: 409 if the number is taken.
        """
        now = self.clock.now()
        record = RunRecord(
            id=self._new_run_id(session_id, model_seq_id),
            session_id=session_id,
            base_model=saved.base_model,
            lora=saved.lora,
            created_at=now,
            last_request_time=now,
            optimizer=saved.optimizer,
        )
        self.runs[record.id] = record
        self.folder.save_run(record)
        return record

    def _new_run_id(self, session_id: str, model_seq_id: int) -> str:
        run_id = f"{session_id}:train:{model_seq_id}"
        if run_id in self.runs:
            raise Refused(409, f"model_seq_id {model_seq_id} of session {session_id} is taken")
        return run_id

    def live_run(self, run_id: str) -> ServerRun:
        """The live model of that id; resets its session's idle time.

        Raises:
            Refused: 404 if it is not loaded.
        """
        self.end_stale_sessions()
        run = self.live.get(run_id)
        if run is None:
            reason = "its session ended or the server was restarted" if run_id in self.runs else "unknown id"
            raise Refused(404, f"Model {run_id} is not loaded ({reason})")
        self.sessions.touch(run.record.session_id)
        self.update_run(run, last_request_time=self.clock.now())
        return run

    def update_run(self, run: ServerRun, *, save: bool = False, **changes: object) -> None:
        """Change fields of a run's record."""
        run.record = run.record.model_copy(update=changes)
        self.runs[run.record.id] = run.record
        if save:
            self.folder.save_run(run.record)

    def submit(
        self,
        run: ServerRun,
        kind: str,
        seq_id: int | None,
        digest: str,
        work: Work,
        *,
        check: Callable[[], None] | None = None,
    ) -> Promise:
        """Enqueue an operation in the run's lane, or return the promise of the same request sent before.

        ``check`` may refuse a request that is no repetition.

        Raises:
            Refused: 409 if the seq_id was used for another request or is in the past.
        """
        if seq_id is not None and self.replay:
            earlier = run.earlier_promise(seq_id, digest)
            if earlier is not None:
                return earlier
            if run.lane.is_past(seq_id):
                raise Refused(
                    409, f"seq_id {seq_id} is in the past: model {run.record.id} is at {run.lane.next_seq}"
                )
        if check is not None:
            check()
        promise = self.promises.create(kind, run.record.id)
        if seq_id is not None:
            run.record_request(seq_id, digest, promise)

        async def work_or_fail() -> Result:
            fault = self.faults.failure_due(kind)
            if fault is not None:
                raise OperationFailed(fault.detail, fault.category)
            return await work()

        run.lane.submit(seq_id, promise, work_or_fail)
        return promise

    async def load(
        self, run: ServerRun, saved: StoredCheckpoint, *, seq_id: int | None, digest: str, optimizer: bool
    ) -> Plain:
        """Replace the run's weights, and with ``optimizer`` its optimizer state, by those of a checkpoint.

        Raises:
            OperationFailed: the checkpoint is damaged or does not fit the run.
        """
        run.refuse_if_poisoned()
        if saved.kind is not SaveKind.TRAINING:
            raise OperationFailed(f"{saved.path} is for sampling; training resumes from weights/NAME", "user")
        if (saved.base_model, saved.lora.shape) != (run.record.base_model, run.adapter.shape):
            raise OperationFailed(
                f"{saved.path} was made from {saved.base_model} with rank {saved.lora.rank}; "
                f"model {run.record.id} is {run.record.base_model} with rank {run.record.lora.rank}",
                "user",
            )
        if optimizer and saved.optimizer != run.record.optimizer:
            raise OperationFailed(
                f"{saved.path} has the state of {saved.optimizer.type}; model {run.record.id} trains with "
                f"{run.record.optimizer.type}",
                "user",
            )
        warm = optimizer and not self.faults.consume_cold_load()
        run.adapter = await self.compute(lambda: self.checkpoints.load(saved, optimizer=warm))
        self.record_effect(run, "load_weights", seq_id, digest, path=saved.path, optimizer=optimizer)
        return Plain({"type": "load_weights", "path": saved.path, "model_id": run.record.id})

    def pause(self, pause: PauseQueue) -> None:
        """Stop starting operations, or resume if the state is ``active``."""
        self.queue = pause
        if pause.state is ServerQueueState.ACTIVE:
            self._unpaused.set()
        else:
            self._unpaused.clear()

    async def wait_for_turn(self) -> None:
        """Wait until the queue is not paused, then for ``work_ms``."""
        await self._unpaused.wait()
        if self.work_ms:
            await asyncio.sleep(self.work_ms / 1000)

    def record_effect(self, run: ServerRun, kind: str, seq_id: int | None, digest: str, **facts: object) -> None:
        """Log an operation that took effect."""
        self.effect_log.write(
            model_id=run.record.id, seq_id=seq_id, kind=kind, digest=digest, step=run.adapter.steps, **facts
        )

    async def poison_if_due(self, run: ServerRun) -> None:
        """Corrupt the run if a fault is scheduled for its current step."""
        mode = self.faults.corruption_due(run.record.id, run.adapter.steps)
        if mode is not None:
            await self.poison(run, mode)

    async def poison(self, run: ServerRun, mode: CorruptionMode) -> None:
        """Corrupt a live run."""
        await self.compute(lambda: run.poison(mode))
        self.update_run(run, save=True)
        self.effect_log.write(model_id=run.record.id, seq_id=None, kind="corrupted", mode=mode.value)

    def start_task(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine as a background task. The service holds the reference that keeps it alive."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def snapshot(self, sampler_id: str) -> Adapter:
        """The weights saved for one sampling session alone.

        Raises:
            Refused: 404 if they were dropped with their session.
        """
        adapter = self.snapshots.get(sampler_id)
        if adapter is None:
            raise Refused(
                404, f"The weights of sampling session {sampler_id} are gone: deleted, or its session ended"
            )
        return adapter

    def weights_of(self, sampler: SamplerRecord) -> Adapter:
        """The unnamed weights of a sampling session, its own or the inflight ones of its run.

        Raises:
            Refused: 404 if they were dropped.
        """
        if sampler.expires_at is not None and sampler.expires_at <= self.clock.now():
            raise Refused(404, f"The weights of sampling session {sampler.id} are gone: their time to live ended")
        if sampler.inflight_of is None:
            return self.snapshot(sampler.id)
        adapter = self.inflight.get(sampler.inflight_of)
        if adapter is None or sampler.id not in self.samplers:
            raise Refused(404, f"The inflight weights of model {sampler.inflight_of} are gone: its session ended")
        return adapter

    def delete_sampler(self, sampler_id: str) -> None:
        """Delete a sampling session with the weights saved for it alone.

        Raises:
            Refused: 404 if it does not exist.
        """
        sampler = self.samplers.pop(sampler_id, None)
        if sampler is None:
            raise Refused(404, f"Sampler {sampler_id!r} not found")
        self.snapshots.pop(sampler_id, None)
        self.folder.delete_sampler(sampler_id)

    def add_sampler(self, sampler: SamplerRecord) -> SamplerRecord:
        """Add a sampling session."""
        self.samplers[sampler.id] = sampler
        self.folder.save_sampler(sampler)
        return sampler


def digest_of_body(kind: str, parts: Mapping[str, object], *arrays: bytes) -> str:
    """SHA-256 of a request's content, independent of its encoding."""
    # the order of keys is the client's own, at every depth
    content = json.dumps(parts, sort_keys=True, default=repr)
    sha = hashlib.sha256(f"{kind}:{content}".encode("utf-8", "replace"))
    for array in arrays:
        sha.update(len(array).to_bytes(8, "little"))
        sha.update(array)
    return sha.hexdigest()


def ttl_end(now: datetime, ttl_seconds: int | None) -> datetime | None:
    """The time at which a time to live ends; None without one."""
    return None if ttl_seconds is None else now + timedelta(seconds=ttl_seconds)
