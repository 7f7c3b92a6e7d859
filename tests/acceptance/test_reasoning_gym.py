"""The example of reasoning-gym trains, and a killed worker changes neither its rewards nor its losses."""

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym")

from tests.acceptance.conftest import ROOT, Cli

pytestmark = pytest.mark.timeout(300)


def test_a_killed_run_has_the_rewards_of_one_that_was_left_alone(cli: Cli, tmp_path: Path) -> None:
    """Of the shipped example, for fewer steps."""
    example = Path(shutil.copy(ROOT / "examples" / "reasoning_gym.yaml", tmp_path))
    text, changed = re.subn(r"max_steps: \d+", "max_steps: 6", example.read_text())
    assert changed == 1
    example.write_text(text)

    with cli.dev_server():
        left_alone = cli.json("run", example)["id"]
        killed = cli.json("submit", example)["id"]
        with cli.running("worker") as first:
            cli.wait_for_step()
            first.kill()
        with cli.running("worker"):
            cli.wait_for(killed, "succeeded")

    one, other = cli.json("steps", left_alone), cli.json("steps", killed)
    assert [step["metrics"]["reward"] for step in one] == [step["metrics"]["reward"] for step in other]
    assert [step["loss"] for step in one] == [step["loss"] for step in other]
    assert len(one) == 6
    assert any(step["metrics"]["reward"] > 0 for step in one)
