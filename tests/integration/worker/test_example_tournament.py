"""The example of a reward model that judges a tournament: its environments, its data, and that its jobs run."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from crucible.environments import Environment
from crucible.testing import EnvironmentContract
from nsai_work import submit_many
from nsai_work.client.jobfile import load_jobs
from nsai_work.testing import isolated_store, run_jobs

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield pytest.importorskip("tournament")
    sys.modules.pop("tournament", None)


class TestTournament(EnvironmentContract):
    """Answers of a group against each other."""

    group_size = 3
    model_answers = ("A", "B", "?")

    @pytest.fixture
    def environment(self, example: ModuleType) -> Environment:
        made: Environment = example.Tournament()
        return made


class TestWinRate(EnvironmentContract):
    """An answer against a known one."""

    model_answers = ("A", "B", "?")

    @pytest.fixture
    def environment(self, example: ModuleType) -> Environment:
        made: Environment = example.WinRate()
        return made


def test_the_comparisons_are_made_of_the_preferences(example: ModuleType) -> None:
    """Each both ways."""
    rows = [json.loads(line) for line in (EXAMPLES / "comparisons.jsonl").read_text().splitlines()]
    assert rows == [example.comparison(row, swapped=swapped) for row in example.ROWS for swapped in (False, True)]


@pytest.mark.slow
def test_the_jobs_run(tmp_path: Path) -> None:
    """In few steps, on another backend: the evaluation asks the judge too."""
    jobs: list[dict[str, Any]] = yaml.safe_load((EXAMPLES / "rlhf.yaml").read_text())
    for job in jobs:
        job["backend"] = "fake"
        payload = job["payload"]
        payload |= {"base_model": "tiny-lm", "max_steps": 2, "eval": {**payload["eval"], "every": 2}}
        if "path" in payload.get("data", {}):
            payload["data"]["path"] = str(EXAMPLES / payload["data"]["path"])
    file = tmp_path / "rlhf.yaml"
    file.write_text(yaml.safe_dump(jobs))
    with isolated_store(python_allow="tournament"):
        handles = submit_many(load_jobs(file))
        run_jobs(timeout_s=200)
        assert [handle.job().error for handle in handles] == [None] * 3
        assert 0 <= handles[-1].evaluations()[-1].metrics["eval.reward"] <= 1
