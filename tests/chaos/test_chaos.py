"""Chaos tests: whichever process is killed, no job is lost, and no step is applied twice.

A seed, which is printed, determines all faults. To replay a run:

    NSAI_CHAOS_SEED=12345 pytest -s tests/chaos

The parties write down what they do, and ``tests/verify`` checks their history.

The short form kills a few workers: with the embedded store and broker in ``make test``, with each other pair in
``make test-slow``. The long form (``make chaos``) kills 200, or ``NSAI_CHAOS_KILLS``.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsai_work import Job, JobHandle, submit_many
from nsai_work.worker import run_inline
from tests.chaos.harness import (
    Harness,
    Reference,
    effects_of,
    evaluations,
    more_beside,
    pairs_beside,
    service_variables,
    training_job,
    training_service,
    verify,
)
from tests.conversations import write_conversations, write_pairs
from tests.rig import Proxy, Rig
from tests.verify.recorded_run import recorded

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

LONG_TIMEOUT_S = 600.0
"""The time within which every job must make progress in the long form, also on a machine that is busy otherwise."""


def _seed() -> int:
    return int(os.environ.get("NSAI_CHAOS_SEED") or random.SystemRandom().randrange(10**6))


def _undisturbed(rig: Rig, harness: Harness, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> list[Reference]:
    """Run jobs in this process, before any worker is started."""
    for name, value in rig.variables.items():
        monkeypatch.setenv(name, value)
    handles = submit_many(jobs, rig.settings())
    run_inline([handle.id for handle in handles], rig.settings(lease_ttl_s=60))
    return [_reference(harness, handle) for handle in handles]


def _reference(harness: Harness, handle: JobHandle) -> Reference:
    # it has ended; only the connection takes time
    result = handle.result(timeout=60)
    assert result["recoveries"] == 0
    return Reference(
        [step.loss for step in handle.steps()],
        evaluations(handle),
        harness.server.checkpoint_digest(str(result["checkpoint"])),
    )


def _inject_faults(
    harness: Harness, faults: list[tuple[Callable[[], None], int]], *, until_kills: int, timeout_s: float
) -> None:
    """Inject random faults until enough workers were killed, or all jobs have ended."""
    injectors, weights = [fault for fault, _ in faults], [weight for _, weight in faults]
    while harness.unfinished() and harness.counts["kills"] < until_kills:
        harness.wait_for_progress(timeout_s)
        time.sleep(harness.rng.uniform(0.0, 0.4))
        harness.rng.choices(injectors, weights)[0]()


def _log(text: str) -> None:
    sys.stderr.write(f"\nchaos: {text}\n")


def _chaos(
    rig_and_broker: tuple[Rig, Proxy | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    jobs: int,
    steps: int,
    kills: int,
    faults: Callable[[Harness], list[tuple[Callable[[], None], int]]],
    service: tuple[str, ...] = (),
    timeout_s: float = 60,
) -> None:
    rig, broker = rig_and_broker
    seed = _seed()
    _log(f"seed {seed}; replay with NSAI_CHAOS_SEED={seed}")
    data = write_conversations(tmp_path / "data.jsonl", 12, "{n} + {n}?")
    write_pairs(pairs_beside(data), 12)
    write_conversations(more_beside(data), 5, "Where is {n}?")
    with training_service(tmp_path / "service", *service, work_ms=10) as server:
        rig.variables.update(service_variables(server))
        harness = Harness(rig, server, random.Random(seed), broker=broker)
        specifications = [training_job(data, steps=steps, seed=number) for number in range(jobs)]
        references = _undisturbed(rig, harness, specifications, monkeypatch)
        with recorded(rig.variables, tmp_path / "history", effects_of(tmp_path / "service")) as run:
            harness.open()
            while harness.counts["kills"] < kills:
                harness.handles = []
                harness.submit([training_job(data, steps=steps, seed=number) for number in range(jobs)])
                _inject_faults(harness, faults(harness), until_kills=kills, timeout_s=timeout_s)
                server.clear_faults()
                while harness.unfinished():
                    harness.wait_for_progress(timeout_s)
                for handle, reference in zip(harness.handles, references, strict=True):
                    verify(harness, handle, reference)
            _log(str(dict(harness.counts)))
            _log(run.require_clean())


def test_killed_workers_have_no_effect(
    rig_and_broker: tuple[Rig, Proxy | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers killed at random points, stale and duplicate wake-ups, broken connections: every job ends once, with
    the losses and the weights of an undisturbed run, bit for bit."""

    def faults(harness: Harness) -> list[tuple[Callable[[], None], int]]:
        return [
            (harness.kill_worker, 10),
            (harness.send_stale_wake_ups, 2),
            (harness.cut_broker, 1),
            (harness.disturb_service, 2),
        ]

    _chaos(rig_and_broker, tmp_path, monkeypatch, jobs=2, steps=12, kills=3, faults=faults)


@pytest.mark.long
@pytest.mark.timeout(14400)
def test_two_hundred_kills(
    rig_and_broker: tuple[Rig, Proxy | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long form: all faults, until 200 workers have been killed."""

    def faults(harness: Harness) -> list[tuple[Callable[[], None], int]]:
        return [
            (harness.kill_worker, 20),
            (harness.kill_successor, 5),
            (harness.freeze_worker, 1),
            (harness.terminate_worker, 3),
            (harness.send_stale_wake_ups, 3),
            (harness.cut_broker, 3),
            (harness.disturb_service, 6),
            (harness.corrupt_run, 2),
            (harness.lose_run, 2),
        ]

    kills = int(os.environ.get("NSAI_CHAOS_KILLS") or 200)
    _chaos(
        rig_and_broker,
        tmp_path,
        monkeypatch,
        jobs=4,
        steps=200,
        kills=kills,
        faults=faults,
        timeout_s=LONG_TIMEOUT_S,
    )


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("rig_and_broker", ["embedded"], indirect=True)
def test_kills_on_a_service_that_keeps_no_record(
    rig_and_broker: tuple[Rig, Proxy | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a service would apply a repeated seq_id again, so the effect of a dead worker's open intents is unknown:
    an exact restore into a new run follows. The service accepts JSON only."""

    def faults(harness: Harness) -> list[tuple[Callable[[], None], int]]:
        return [
            (harness.kill_worker, 10),
            (harness.terminate_worker, 2),
            (harness.corrupt_run, 1),
            (harness.disturb_service, 1),
        ]

    kills = int(os.environ.get("NSAI_CHAOS_KILLS") or 60)
    service = ("--no-replay", "--json-only")
    _chaos(
        rig_and_broker,
        tmp_path,
        monkeypatch,
        jobs=3,
        steps=60,
        kills=kills,
        faults=faults,
        service=service,
        timeout_s=LONG_TIMEOUT_S,
    )
