"""Fixtures that bring software of others here. The modules beside this file are imported by their plain names."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import foreign
from plan import Plan
from provision import HERE, NotProvided, provide

Found = dict[str, Any]
Provider = Callable[[str], Path]
RoundOf = Callable[[Path, str, str, str, Plan], Found]

ROUND_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs the package index, so all of it bears the marker."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def provided() -> Provider:
    """The Python of a peer's environment by name; a skip, or a failure where services are required."""

    def find(name: str) -> Path:
        try:
            return provide(name)
        except NotProvided as problem:
            if os.environ.get("NSAI_TEST_REQUIRE_SERVICES"):
                pytest.fail(f"the peers are required here: {problem}")
            pytest.skip(str(problem))

    return find


@pytest.fixture
def round_of(tmp_path: Path) -> RoundOf:
    """Run ``client_round.py`` in a process: (python, client module, url, key, plan) to what it found."""

    def run(python: Path, client: str, url: str, key: str, plan: Plan) -> Found:
        plan_file, out_file = tmp_path / "plan.json", tmp_path / "found.json"
        plan_file.write_text(json.dumps(plan))
        environment = {"TINKER_BASE_URL": url, "TINKER_API_KEY": key, "TINKER_TELEMETRY": "0"}
        done = subprocess.run(
            [python, HERE / "client_round.py", plan_file, out_file, client], env=os.environ | environment,
            cwd=HERE.parents[1], capture_output=True, text=True, timeout=ROUND_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{client} of {python} failed:\n{done.stderr[-4000:]}"
        found: Found = json.loads(out_file.read_text())
        return found

    return run


@pytest.fixture(scope="session")
def tuft(provided: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[foreign.Served]:
    """A running TuFT with its dummy backends."""
    provided("tuft")
    with foreign.tuft(tmp_path_factory.mktemp("tuft")) as served:
        yield served


@pytest.fixture(scope="session")
def skyrl(provided: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[foreign.Served]:
    """A running SkyRL with the tiny model; it is heavy, so it is asked for by ``NSAI_TEST_SKYRL=1``."""
    if not os.environ.get("NSAI_TEST_SKYRL"):
        pytest.skip("set NSAI_TEST_SKYRL=1 to install SkyRL (2 GB) and run against it")
    provided("skyrl")
    with foreign.skyrl(tmp_path_factory.mktemp("skyrl")) as served:
        yield served
