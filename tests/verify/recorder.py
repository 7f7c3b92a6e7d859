"""The history of a run: what its parties did, written by each of them at the moment of the act.

A worker process of the tests calls ``install_from_environment``: where ``NSAI_TEST_VERIFY_FOLDER`` names a folder,
the methods with which it acts are wrapped, so that each writes a JSON line before it acts and another with the
outcome, to a file of this process alone. The line is in the kernel when the write returns, and survives a SIGKILL.
Without the variable nothing is wrapped. The dev server keeps a record of its own, the log of effects.

``tests/verify/check.py`` reads the files; it shares no code with the product, nor with this module.
"""

import contextlib
import contextvars
import functools
import hashlib
import itertools
import json
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.verify.rollout_recorder import install_rollouts

FOLDER_VARIABLE: Final = "NSAI_TEST_VERIFY_FOLDER"

_owner: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("owner")


class Recorder:
    """A file of acts, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        name = f"party-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def write(self, act: str, phase: str, **facts: object) -> int:
        """Write an act and return its number in this process. ``phase``: ``begin``, ``ok``, or that of an error."""
        with self._lock:
            number = next(self._numbers)
            line = json.dumps({"n": number, "act": act, "phase": phase, **facts}).encode() + b"\n"
            os.write(self._file, line)
        return number

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def phase_of(error: BaseException) -> str:
    """Return ``refused`` if nothing was written, because another owner has the job; else ``unknown``."""
    return "refused" if getattr(error, "code", None) == "lease_lost" else "unknown"


def install(folder: Path) -> None:
    """Wrap the acts of this worker."""
    from nsai_work.store.journal.adapter import StoreJournal
    from nsai_work.worker.runtime import Runtime
    from nsai_work.worker.worker_store import WorkerStore

    recorder = Recorder(folder)
    _wrap_claim(recorder, Runtime)
    for name, facts in _JOURNALED.items():
        _wrap_write(recorder, StoreJournal, name, lambda self: self._claim, facts)
    _wrap_load(recorder, StoreJournal)
    for name, facts in _ENDS.items():
        _wrap_write(recorder, WorkerStore, name, None, facts)
    _wrap_reclaim(recorder, WorkerStore)
    _wrap_send(recorder)
    install_rollouts(
        recorder,
        lambda: _owner.get({}),
        lambda owner, name, facts: _wrap_write(recorder, owner, name, lambda self: self._claim, facts),
    )


def _run(run: Any) -> dict[str, object]:
    return {"generation": run.generation, "run_id": run.ref.run_id, "from_step": run.from_step}


def _intents(generation: int, intents: Iterable[Any]) -> dict[str, object]:
    return {"generation": generation, "intents": [_intent(intent) for intent in intents]}


def _intent(intent: Any) -> dict[str, object]:
    return {
        "run_id": intent.run_id,
        "first": intent.first_seq_id,
        "last": intent.last_seq_id,
        "kind": str(intent.kind),
        "step": intent.step,
        "digest": intent.digest,
    }


def _record(record: Any, last_seq_id: int, *_: object) -> dict[str, object]:
    return {"generation": record.generation, "step": record.step, "loss": record.loss, "last": last_seq_id}


def _evaluation(record: Any, last_seq_id: int) -> dict[str, object]:
    return {"generation": record.generation, "step": record.step, "metrics": record.metrics, "last": last_seq_id}


def _plan(checkpoint: Any, intent: Any, **_: object) -> dict[str, object]:
    return {"name": checkpoint.name, "step": checkpoint.step, **_intents(checkpoint.generation, [intent])}


def _commit(name: str, *, path: str, **_: object) -> dict[str, object]:
    return {"name": name, "path": path}


_JOURNALED: Final[dict[str, Callable[..., dict[str, object]]]] = {
    "begin_run": _run,
    "intend": _intents,
    "complete_step": _record,
    "complete_evaluation": _evaluation,
    "plan_checkpoint": _plan,
    "commit_checkpoint": _commit,
}
_ENDS: Final[dict[str, Callable[..., dict[str, object]]]] = {
    "finish": lambda _claim, outcome: {"outcome": str(outcome.kind)},
    "requeue": lambda _claim, outcome: {"outcome": str(outcome.kind)},
}


def _wrap_write(
    recorder: Recorder,
    owner: type,
    name: str,
    claim_of: Callable[[Any], Any] | None,
    facts: Callable[..., dict[str, object]],
) -> None:
    """Wrap a write of a job's owner; its claim is the first argument unless ``claim_of`` returns it."""
    call: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(call)
    async def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        claim = args[0] if claim_of is None else claim_of(self)
        described = {"job": claim.job_id, "fence": claim.fence, **facts(*args, **options)}
        begun = recorder.write(name, "begin", **described)
        try:
            result = await call(self, *args, **options)
        except BaseException as error:
            recorder.write(name, phase_of(error), begun=begun, **described)
            raise
        recorder.write(name, "ok", begun=begun, **described)
        return result

    setattr(owner, name, wrapped)


def _wrap_load(recorder: Recorder, journal: type) -> None:
    call = journal.load  # type: ignore[attr-defined]

    @functools.wraps(call)
    async def load(self: Any) -> Any:
        snapshot = await call(self)
        current: dict[int, list[int]] = {}
        for step in snapshot.steps:
            current.setdefault(step.generation, []).append(step.step)
        recorder.write(
            "load",
            "ok",
            job=self._claim.job_id,
            fence=self._claim.fence,
            runs=[_run(run) for run in snapshot.runs],
            steps={generation: _spans(steps) for generation, steps in current.items()},
            last_seq_id=snapshot.last_seq_id,
            checkpoints={item.name: str(item.status) for item in snapshot.checkpoints},
        )
        return snapshot

    journal.load = load  # type: ignore[attr-defined]


def _spans(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers in order as spans of consecutive ones, first and last included."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return spans


def _wrap_claim(recorder: Recorder, runtime: type) -> None:
    start = runtime._start_attempt  # type: ignore[attr-defined]

    @functools.wraps(start)
    def start_attempt(self: Any, claim: Any, claimed_at: float) -> None:
        owner = {"job": claim.job_id, "fence": claim.fence}
        recorder.write("claim", "ok", worker=claim.worker_id, attempt=claim.attempt, **owner)
        # the attempt's task, and the sends that it starts, inherit it
        token = _owner.set(owner)
        try:
            start(self, claim, claimed_at)
        finally:
            _owner.reset(token)

    runtime._start_attempt = start_attempt  # type: ignore[attr-defined]


def _wrap_reclaim(recorder: Recorder, store: type) -> None:
    call = store.reclaim  # type: ignore[attr-defined]

    @functools.wraps(call)
    async def reclaim(self: Any, ended: Sequence[Any], reason: str) -> Any:
        taken = await call(self, ended, reason)
        for lease in ended:
            if lease.job_id in taken:
                recorder.write("reclaim", "ok", job=lease.job_id, fence=lease.fence, reason=reason)
        return taken

    store.reclaim = reclaim  # type: ignore[attr-defined]


def _wrap_send(recorder: Recorder) -> None:
    from backends.tinkex.run import TinkexRun
    from crucible.training import Pending

    call: Any = TinkexRun.send

    class Answered(Pending[Any]):
        """A pending result that writes the answer when it arrives."""

        def __init__(self, pending: "Pending[Any]", sent: dict[str, object]) -> None:
            self._pending, self._sent = pending, sent

        async def result(self) -> Any:
            answer = await self._pending.result()
            recorder.write("answer", "ok", **self._sent, **_answer(answer))
            return answer

    @functools.wraps(call)
    async def send(self: Any, prepared: Any) -> Any:
        sent = {**_owner.get({}), **_intent(prepared.intent)}
        recorder.write("send", "begin", **sent)
        pending = await call(self, prepared)
        recorder.write("send", "ok", **sent)
        return Answered(pending, sent)

    TinkexRun.send = send  # type: ignore[method-assign]


def _answer(answer: Any) -> dict[str, object]:
    if hasattr(answer, "loss"):
        return {"loss": answer.loss}
    if hasattr(answer, "path"):
        return {"path": answer.path}
    return {
        "logprobs": hashlib.sha256(
            repr([[float(value) for value in row] for row in answer.logprobs]).encode()
        ).hexdigest()
    }


@contextlib.contextmanager
def recorded_submits(folder: Path) -> Iterator[None]:
    """Let this process write what it submits."""
    from nsai_work.client import submit

    recorder, call = Recorder(folder), submit.submit_with_files

    @functools.wraps(call)
    def submit_with_files(store: Any, jobs: Sequence[Any], settings: Any) -> Any:
        asked = [{"job": job.id, "key": job.idempotency_key} for job in jobs]
        begun = recorder.write("submit", "begin", jobs=asked)
        try:
            submitted = call(store, jobs, settings)
        except BaseException as error:
            recorder.write("submit", phase_of(error), begun=begun, jobs=asked)
            raise
        answered = [
            {**job, "answer": entry.job_id, "created": entry.created}
            for job, entry in zip(asked, submitted, strict=True)
        ]
        recorder.write("submit", "ok", begun=begun, jobs=answered)
        return submitted

    submit.submit_with_files = submit_with_files
    try:
        yield
    finally:
        submit.submit_with_files = call
        recorder.close()


def install_from_environment() -> None:
    """Install what the environment of this process asks for: the recorder, and a mutant of the product."""
    from tests.verify.mutants import MUTANT_VARIABLE, plant

    if mutant := os.environ.get(MUTANT_VARIABLE):
        plant(mutant)
    if folder := os.environ.get(FOLDER_VARIABLE):
        install(Path(folder))
