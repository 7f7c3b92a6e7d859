"""The workflow file runs what CI runs, on the Pythons that the package claims."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
JOB = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]


def test_it_runs_on_each_python_of_the_classifiers() -> None:
    """A version is claimed and run, or neither."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    claimed = [found[1] for text in classifiers if (found := re.search(r":: (3\.\d+)$", text))]

    assert JOB["strategy"]["matrix"]["python"] == claimed


def test_it_runs_the_script_with_every_service() -> None:
    """The script names the variables of the services that it needs."""
    script = (ROOT / ".ci" / "run").read_text()

    assert JOB["steps"][-1] == {"run": ".ci/run"}
    assert set(JOB["env"]) == set(re.findall(r"NSAI_TEST_\w+_URL", script))
    assert set(JOB["services"]) == {"postgres", "redis", "rabbitmq"}
