"""``nsai-work rollouts``: what a model said in reinforcement learning, and what it was worth."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from nsai_work import Job, JobHandle, submit
from nsai_work.cli.app import app
from nsai_work.cli.commands.rollouts import _no_rollouts, write_rollout
from nsai_work.payloads import ReinforcementStep
from nsai_work.testing import isolated_store, run_jobs

PAYLOAD: Final[dict[str, Any]] = {
    "method": "rl",
    "base_model": "tiny-lm",
    "environment": {"name": "tests.games:Letters", "args": {"letters": "ab"}},
    "groups_per_step": 2,
    "group_size": 2,
    "max_steps": 2,
    "sampling": {"max_tokens": 2},
    "lora": {"rank": 4},
    "eval": {"tasks": [{"environment": {"name": "tests.games:Letters"}, "limit": 3}]},
}


@pytest.fixture
def trained() -> Iterator[JobHandle]:
    """A job that has run: two steps of two groups of two."""
    with isolated_store(python_allow="tests"):
        handle = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": PAYLOAD}))
        run_jobs()
        assert handle.job().status == "succeeded", handle.job().error
        yield handle


def printed(*arguments: str, command: str = "rollouts") -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_rewards_of_each_step(trained: JobHandle) -> None:
    """As a table, and as JSON with every rollout."""
    table = printed(trained.id)
    assert [line.split()[:2] for line in table.splitlines()] == [["STEP", "ROLLOUTS"], ["1", "4"], ["2", "4"]]
    rows = json.loads(printed(trained.id, "--json"))
    assert [(row["step"], row["group"], row["member"]) for row in rows] == [
        (step, group, member) for step in (1, 2) for group in range(2) for member in range(2)
    ]
    assert all(row["status"] == "done" and row["reason"] == "done" and row["tokens"] for row in rows)


def test_the_rollouts_of_evaluations(trained: JobHandle) -> None:
    """Of step 0 and of the last, and what was said in them."""
    table = printed(trained.id, "--evaluated")
    assert [line.split()[:2] for line in table.splitlines()] == [["STEP", "ROLLOUTS"], ["0", "3"], ["2", "3"]]
    rows = json.loads(printed(trained.id, "--evaluated", "--step", "0", "--json"))
    assert [row["task"] for row in rows] == [0, 1, 2]
    assert all(row["messages"][1]["role"] == "assistant" for row in rows)
    assert [record.step for record in trained.rollouts(evaluated=True)] == [0, 0, 0, 2, 2, 2]
    assert "EVAL REWARD" in printed(trained.id, command="steps")


def test_what_was_said_in_a_step(trained: JobHandle) -> None:
    """The messages of the environment and of the model, with the reward."""
    rows = json.loads(printed(trained.id, "--step", "2", "--json"))
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]
    assert rows[0]["messages"][0]["content"] in ("Say a.", "Say b.")
    lines = printed(trained.id, "--step", "2").splitlines()
    assert len([line for line in lines if line.startswith("group ") and "reward" in line]) == 4
    assert "  user: Say" in "\n".join(lines)
    missing = CliRunner().invoke(app, ["rollouts", trained.id, "--step", "3"])
    assert (missing.exit_code, missing.stdout) == (0, "")
    assert missing.stderr == "no rollouts of step 3: the job has ended as succeeded\n"


def test_a_step_without_rollouts_of_its_own() -> None:
    """It may get some while the job runs; within a round, those of its first step are its own."""
    job = Job.parse({"kind": "training_step", "backend": "fake", "payload": PAYLOAD | {"substeps": 2}})
    payload = job.parsed_payload
    assert isinstance(payload, ReinforcementStep)
    assert _no_rollouts(job, payload, 3, evaluated=False) == "no rollouts of step 3 yet"
    assert _no_rollouts(job, payload, 4, evaluated=True) == "no rollouts of step 4 yet"
    assert _no_rollouts(job, payload, 0, evaluated=False) == "no rollouts of step 0 yet"
    assert "trains on those of step 3" in _no_rollouts(job, payload, 4, evaluated=False)


def test_the_reward_is_wherever_the_loss_is(trained: JobHandle) -> None:
    """As the loss of reinforcement learning is near 0, whatever the model learns."""
    rewards = [step["metrics"]["reward"] for step in json.loads(printed(trained.id, "--json", command="steps"))]
    table = printed(trained.id, command="steps").splitlines()
    assert table[0].split()[-3:] == ["REWARD", "EVAL", "REWARD"]
    assert [float(line.split()[5]) for line in table[2:]] == pytest.approx(rewards, rel=1e-4)
    result = json.loads(printed(trained.id, "--json", command="show"))["result"]
    assert (result["first_reward"], result["reward"]) == (rewards[0], rewards[-1])
    assert "first reward" in printed(trained.id, command="show")
    [compared] = json.loads(printed(trained.id, "--json", command="compare"))["jobs"]
    assert compared["reward"] == rewards[-1]
    assert "REWARD" in printed(trained.id, command="compare")
    assert f"reward {rewards[-1]:.4f}" in CliRunner().invoke(app, ["watch", trained.id]).stdout


def test_text_of_a_rollout_forges_no_line(trained: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of a message are set in, those of a reason are one, and control characters are escaped."""
    [rollout, *_] = json.loads(printed(trained.id, "--step", "1", "--json"))
    forged = "a\r\ngroup 9, member 9: \x1b[2J\u2028group 8"
    rollout["reason"] = forged
    rollout["messages"][0]["content"] = forged
    write_rollout(rollout)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == lines[:1]
    assert lines[0].startswith("group 0, member 0")
    assert not any("\x1b" in line for line in lines)


def test_a_job_of_another_method_has_no_rollouts(trained: JobHandle, tmp_path: Path) -> None:
    """It is refused by name, not shown as a job that has none yet."""
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"prompt": "2 and 2?", "completion": "4"}) + "\n")
    payload = {"base_model": "tiny-lm", "data": {"path": str(path)}, "max_steps": 1}
    other = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": payload}))
    result = CliRunner().invoke(app, ["rollouts", other.id])
    assert "method: rl" in str(result.exception)
