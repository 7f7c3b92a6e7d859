"""Reinforcement learning under kills, corrupted runs, lost models and sessions: it ends as one that was left alone.

The long form (``make chaos``) only; ``NSAI_CHAOS_KILLS`` is the number of kills of each combination.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from nsai_work import JobHandle, submit
from nsai_work.store import MAX_CRASHES
from nsai_work.store.schema import jobs
from tests.chaos.harness import LEASE_TTL_S, effects_of, service_variables, training_service
from tests.integration.worker.test_killed_rollouts import job, outcome
from tests.rig import Rig, open_rig, until
from tests.verify.recorded_run import recorded

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(7200)]

STEPS = 24
DEADLINE_S = 1200.0
"""The time within which something must happen on a machine that is busy otherwise."""
SQLITE, POSTGRES = "embedded", "amqp"
SERVICES = [pytest.mark.postgres, pytest.mark.amqp]


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store and a broker of this test's own."""
    with open_rig(request, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("rig", "fields"),
    [
        pytest.param(SQLITE, {"loss_fn": "importance_sampling"}, id="sqlite-importance_sampling"),
        pytest.param(SQLITE, {"loss_fn": "ppo"}, id="sqlite-ppo"),
        pytest.param(SQLITE, {"loss_fn": "ppo", "steps_ahead": 2}, id="sqlite-ppo-ahead"),
        pytest.param(SQLITE, {"loss_fn": "stable_reinforce"}, id="sqlite-stable_reinforce"),
        pytest.param(
            POSTGRES, {"loss_fn": "importance_sampling"}, marks=SERVICES, id="postgres-importance_sampling"
        ),
        pytest.param(
            POSTGRES,
            {"loss_fn": "importance_sampling", "steps_ahead": 2},
            marks=SERVICES,
            id="postgres-importance_sampling-ahead",
        ),
        pytest.param(POSTGRES, {"loss_fn": "ppo"}, marks=SERVICES, id="postgres-ppo"),
        pytest.param(POSTGRES, {"loss_fn": "stable_reinforce"}, marks=SERVICES, id="postgres-stable_reinforce"),
    ],
    indirect=["rig"],
)
def test_kills_and_lost_runs_change_no_bit(rig: Rig, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Every third kill is followed by a lost session, a corrupted run or a lost model. By the recorded history no
    turn of the journal is sampled again, except those whose sequences ended with their session, which is reported
    (``tests/verify/rollout_rules.py``); beyond the journal at most what was under way when a run was lost."""
    seed = int(os.environ.get("NSAI_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}")  # noqa: T201 - to repeat the run
    rng, kills = random.Random(seed), int(os.environ.get("NSAI_CHAOS_KILLS", "24"))
    with (
        training_service(tmp_path / "service", work_ms=1) as server,
        recorded(rig.variables, tmp_path / "history", effects_of(tmp_path / "service")) as history,
    ):
        rig.variables.update(service_variables(server) | {"NSAI_WORK_PYTHON_ALLOW": "tests"})

        def sampled() -> int:
            return Counter(bool(entry["replayed"]) for entry in server.log(kind="sample"))[False]

        alone = submit(job(max_steps=STEPS, **fields), rig.settings())
        worker = rig.start_worker(lease_ttl_s=LEASE_TTL_S)
        first = alone.result(timeout=DEADLINE_S)
        worker.kill()
        before = sampled()
        killed = submit(job(max_steps=STEPS, **fields), rig.settings())
        lost = done = 0
        progress, without_progress = 0, 0
        while done < kills and not killed.status().ended:
            worker = rig.start_worker(lease_ttl_s=LEASE_TTL_S)
            if (reached := _progress(rig, killed)) > progress:
                progress, without_progress = reached, 0
            if without_progress == MAX_CRASHES - 2:
                # a job whose workers die without a new step is parked, as designed
                until(
                    lambda progress=progress: _progress(rig, killed) > progress,
                    "a new step",
                    worker.text,
                    timeout_s=DEADLINE_S,
                )
            without_progress += 1
            goal = sampled() + rng.randint(0, 2 * before // kills)
            until(
                lambda goal=goal: sampled() >= goal or killed.status().ended,
                "a sample",
                worker.text,
                timeout_s=DEADLINE_S,
            )
            worker.kill()
            done += 1
            if done % 3 == 0 and not killed.status().ended:
                of_run = {"model_id": rig.store.runs(killed.id)[-1].ref.run_id}
                faults = [
                    {"kind": "expire_session"},
                    {"kind": "corrupt", **of_run},
                    {"kind": "lose_model", **of_run},
                ]
                server.fault(**faults[lost % len(faults)])
                lost += 1
        rig.start_worker(lease_ttl_s=LEASE_TTL_S)
        second = killed.result(timeout=DEADLINE_S)

        history.require_clean()
        assert outcome(killed) == outcome(alone)
        paths = [str(result["checkpoint"]) for result in (first, second)]
        assert server.checkpoint_digest(paths[0]) == server.checkpoint_digest(paths[1])
        extra = sampled() - before - _turns(rig, killed)
        restored = len(rig.store.runs(killed.id)) - 1
        print(f"{done} kills, {lost} faults, {restored} restores, {extra} samples beyond the journal")  # noqa: T201
        if fields["loss_fn"] != "stable_reinforce":
            assert _turns(rig, killed) == _turns(rig, alone)
            assert extra <= restored * 6 * (1 + int(fields.get("steps_ahead", 0)))


def _progress(rig: Rig, handle: JobHandle) -> int:
    """The highest step ever recorded of a job: steps that are repeated after a restore are no progress."""
    query = select(jobs.c.progress).where(jobs.c.id == handle.id)
    return int(rig.store.database.read(lambda tx: tx.connection.execute(query).scalar_one()))


def _turns(rig: Rig, handle: JobHandle) -> int:
    return sum(len(rig.store.rollout_turns(handle.id, step)) for step in range(1, STEPS + 1))
