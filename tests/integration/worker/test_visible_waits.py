"""A job that waits for its service says so, with the reason, and goes on by itself.

How soon is tested over virtual time, in tests/unit/worker/test_waits.py.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex import ServiceClient
from backends.tinkex_dev.server import DevProcess
from nsai_work import Job, JobHandle, submit
from nsai_work.lifecycle import JobStatus
from tests.forked_server import ForkedServer
from tests.rig import Rig, until

STEPS = 6


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """SQLite and the embedded transport."""
    made = Rig.embedded(tmp_path)
    yield made
    made.close()


@pytest.fixture
def server(rig: Rig, tmp_path: Path) -> Iterator[DevProcess]:
    """A service of one run at a time, to which the rig's workers go."""
    with ForkedServer(tmp_path / "service", "--max-runs", "1", environment=rig.environment()) as process:
        rig.variables |= {"TINKER_BASE_URL": process.url, "TINKER_API_KEY": "tml-test"}
        yield process


@pytest.fixture
def handle(rig: Rig, server: DevProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobHandle:
    """A training job in the queue."""
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    data = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "What is 2 and 2?"}, {"role": "assistant", "content": "It is 4."}]
    data.write_text(json.dumps({"messages": talk}) + "\n")
    payload = {"base_model": "tiny-lm", "data": {"path": str(data)}, "lora": {"rank": 2}, "max_steps": STEPS}
    return submit(Job(kind="training_step", backend="tinkex", payload=payload), rig.settings())


@dataclass(frozen=True)
class Fault:
    """What is done to the service, the status and reason that the job shows, and what ends the wait."""

    begin: Callable[[DevProcess], object]
    end: Callable[[DevProcess], object]
    status: JobStatus
    reason: str


def route(name: str, status: int, **fields: Any) -> Callable[[DevProcess], object]:
    """Answer a route with an error until the faults are cleared."""
    return lambda server: server.fault(kind="route", route=name, status=status, count=10_000, **fields)


def clear(server: DevProcess) -> None:
    """End every fault."""
    server.clear_faults()


def pause(state: str, reason: str | None) -> Callable[[DevProcess], object]:
    """Accept requests without running them."""
    return lambda server: server.fault(kind="pause", state=state, reason=reason)


def credit(on: bool) -> Callable[[DevProcess], object]:
    """Take the account's credit, or give it back."""
    return lambda server: server.fault(kind="out_of_credit", on=on)


def send(number: signal.Signals) -> Callable[[DevProcess], object]:
    """Send the service's process a signal."""
    return lambda server: os.kill(server.pid, number)


QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING
RESUME = pause("active", None)
FAULTS = {
    "429 at a step": Fault(route("optim_step", 429), clear, RUNNING, "optim_step answered 429"),
    "503 at a pass": Fault(route("forward_backward", 503), clear, RUNNING, "forward_backward answered 503"),
    "paused for capacity": Fault(
        pause("paused_capacity", "no GPU is free"), RESUME, RUNNING, "paused_capacity at http.*: no GPU is free"
    ),
    "out of credit": Fault(credit(True), credit(False), QUEUED, "out of credit"),
    "a service that does not answer": Fault(
        send(signal.SIGSTOP), send(signal.SIGCONT), RUNNING, "no (response|result) yet from http"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_waiting_job_says_why(rig: Rig, server: DevProcess, handle: JobHandle, name: str) -> None:
    """As its ``wait_reason`` and an event; the reason goes when the wait ends, and the job succeeds."""
    fault = FAULTS[name]
    fault.begin(server)
    worker = rig.start_worker(credit_poll_s=1)

    def shown() -> bool:
        job = rig.store.get(handle.id)
        return job.status is fault.status and _matches(fault.reason, job.wait_reason)

    until(shown, "the reason is shown", lambda: (rig.store.get(handle.id), worker.text()))
    until(lambda: any(_names(event, fault) for event in handle.events()), "an event with the reason", handle.events)
    fault.end(server)

    assert handle.result(timeout=120)["steps"] == STEPS
    assert rig.store.get(handle.id).wait_reason is None
    assert rig.store.get(handle.id).attempt == 1
    names = [event.name for event in handle.events()]
    assert names.count("wait.ended") == names.count("wait.started")


def _matches(pattern: str, text: str | None) -> bool:
    return text is not None and re.search(pattern, text) is not None


def _names(event: Any, fault: Fault) -> bool:
    reasons = {QUEUED: "job.queued", RUNNING: "wait.started"}
    return event.name == reasons[fault.status] and _matches(fault.reason, event.data.get("reason"))


def test_429_at_create_model_leaves_the_job_in_the_queue(rig: Rig, server: DevProcess, handle: JobHandle) -> None:
    """They wait there with the reason, take no attempt, and run when there is room."""
    with ServiceClient("tml-test", server.url) as other:
        occupant = other.create_lora_training_client("tiny-lm", rank=1)
        rig.start_worker()

        def waits() -> bool:
            job = rig.store.get(handle.id)
            return job.status is JobStatus.QUEUED and "concurrent LoRA rate limit hit" in (job.wait_reason or "")

        until(waits, "the job waits in the queue", handle.events)
        occupant.unload().result(30)

    assert handle.result(timeout=120)["steps"] == STEPS
    assert handle.job().attempt == 1
