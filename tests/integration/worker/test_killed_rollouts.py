"""Workers that are killed while they sample, train and save: the run ends as one that was left alone.

The short form has SQLite; that with PostgreSQL, and a loss whose sequences end with their session, is in
``make test-slow``.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsai_work import Job, JobHandle, submit
from tests.chaos.harness import service_variables, training_service
from tests.rig import Rig, open_rig, until

STEPS, KILLS = 5, 4


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """SQLite with the embedded transport, or PostgreSQL with RabbitMQ."""
    with open_rig(request, tmp_path) as opened:
        yield opened


def job(**fields: Any) -> Job:
    """A game of three turns, in groups."""
    payload = {
        "method": "rl",
        "base_model": "tiny-lm",
        "environment": {"name": "tests.games:Guess"},
        "groups_per_step": 2,
        "group_size": 3,
        "max_steps": STEPS,
        "sampling": {"max_tokens": 4},
        "advantage": {"scale": "std"},
        "lora": {"rank": 4},
        "optimizer": {"learning_rate": 0.01},
        "checkpoint_policy": {"save_every": 3, "keep_last": 2},
        "recovery": {"enabled": True, "backoff_ms": 10, "max_backoff_ms": 100, "poll_interval_ms": 500},
    }
    retries = {"max_attempts": 1000, "initial_delay_ms": 20, "max_delay_ms": 200}
    return Job.parse(
        {"kind": "training_step", "backend": "tinkex", "payload": payload | fields, "retry_policy": retries}
    )


def outcome(handle: JobHandle) -> list[Any]:
    """The losses of a run, and the rewards of its rollouts."""
    steps = [(step.step, step.loss, step.metrics) for step in handle.steps()]
    return [*steps, *((one.step, one.group, one.member, one.reward, one.tokens) for one in handle.rollouts())]


@pytest.mark.parametrize(
    ("rig", "fields"),
    [
        pytest.param("embedded", {"loss_fn": "ppo", "steps_ahead": 2}, id="sqlite-ppo-ahead"),
        pytest.param(
            "amqp",
            {"loss_fn": "stable_reinforce"},
            marks=[pytest.mark.postgres, pytest.mark.amqp, pytest.mark.slow],
            id="postgres-stable_reinforce",
        ),
    ],
    indirect=["rig"],
)
def test_killed_workers_cost_no_turn_and_no_bit(rig: Rig, tmp_path: Path, fields: dict[str, Any]) -> None:
    """SIGKILL at random turns. By the dev server's own journal no turn was sampled twice."""
    rng = random.Random(len(fields))
    with training_service(tmp_path / "service", work_ms=2) as server:
        rig.variables.update(service_variables(server))
        rig.variables["NSAI_WORK_PYTHON_ALLOW"] = "tests"
        alone = submit(job(**fields), rig.settings())
        worker = rig.start_worker(lease_ttl_s=1.0)
        first = alone.result(timeout=120)

        def sampled() -> int:
            return Counter(bool(entry["replayed"]) for entry in server.log(kind="sample"))[False]

        def turns(handle: JobHandle) -> int:
            return sum(len(rig.store.rollout_turns(handle.id, step)) for step in range(1, STEPS + 1))

        before = sampled()
        assert before == turns(alone)
        worker.kill()
        killed = submit(job(**fields), rig.settings())
        kills = 0
        while not killed.status().ended and kills < KILLS:
            worker = rig.start_worker(lease_ttl_s=1.0)
            goal = sampled() + rng.randint(1, 18)
            until(lambda goal=goal: sampled() >= goal or killed.status().ended, "a sample", worker.text)
            worker.kill()
            kills += 1
        rig.start_worker(lease_ttl_s=1.0)
        second = killed.result(timeout=120)

        assert kills == KILLS
        assert outcome(killed) == outcome(alone)
        assert turns(killed) == turns(alone)
        assert sampled() - before == turns(killed)
        assert server.checkpoint_digest(str(second["checkpoint"])) == server.checkpoint_digest(
            str(first["checkpoint"])
        )
