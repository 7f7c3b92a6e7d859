"""The pages on reinforcement learning: their Python runs, their kit passes, and their example trains."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nsai_work.payloads import JobKind, parse_payload
from tests.acceptance.conftest import Cli
from tests.acceptance.test_docs import DOCS, ROOT, console_commands_of, python_of

pytestmark = pytest.mark.timeout(600)

REWARDS = DOCS / "howto" / "reinforce.md"


def test_the_page_on_environments_runs(tmp_path: Path) -> None:
    """Its environment passes the kit as it stands on the page."""
    test = tmp_path / "test_guess.py"
    test.write_text(python_of(DOCS / "howto" / "write-an-environment.md"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^5 passed", done.stdout, re.MULTILINE), done.stdout


def test_the_jobs_of_the_page_on_rewards_are_valid() -> None:
    """Its function runs, and its blocks fit into its job file."""
    exec(python_of(REWARDS), {})
    import yaml

    shown = re.findall(r"^```yaml\n(.*?)^```$", REWARDS.read_text(), re.MULTILINE | re.DOTALL)
    whole, *blocks = [yaml.safe_load(text)["payload"] for text in shown]
    assert parse_payload(JobKind.TRAINING_STEP, whole)
    for block in blocks:
        # a block with a method is a job that has no environment, and no loss of rewards
        own = {"environment", "loss_fn"} if "method" in block else set()
        kept = {name: value for name, value in whole.items() if name not in own}
        assert parse_payload(JobKind.TRAINING_STEP, kept | block)
    assert len(blocks) == 4


@pytest.mark.slow
def test_the_page_on_rewards_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands; and the model learns."""
    [run] = console_commands_of(REWARDS)
    monkeypatch.chdir(ROOT)
    cli.variables.update({"PYTHONPATH": "examples", "NSAI_WORK_PYTHON_ALLOW": "sums"})
    with cli.dev_server():
        job = cli.json(*run.split())
        steps = cli.json("steps", job["id"])
        rollouts = cli.json("rollouts", job["id"], "--step", "24")
    rewards = [step["metrics"]["reward"] for step in steps]
    assert sum(rewards[-5:]) > 4 * max(sum(rewards[:5]), 0.1)
    assert len(rollouts) == 4 * 8
    assert all(rollout["messages"][-1]["role"] == "assistant" for rollout in rollouts)
