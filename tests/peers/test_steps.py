"""Every step of the API on each server, by our client and by the official SDK: ours passes at least as many, and
what it does not pass the server lacks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import Served
from provision import HERE

from backends.tinkex_dev.server import DEV_KEY, DevServer

STEP_TIMEOUT_S = 120
LACKS: dict[str, tuple[str, set[str]]] = {
    "dev server": ("0.38.0", {"load into a used run", "load with optimizer into it"}),
    "tuft": ("0.25.0", {"expiry of a checkpoint", "unpublish"}),
    "skyrl": (
        "0.24.1",
        {
            "most likely tokens of a prompt",
            "list all checkpoints",
            "expiry of a checkpoint",
            "publish",
            "unpublish",
            "delete",
        },
    ),
}
"""Each server with the SDK that passes most there, and the steps that no client passes."""


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A server by its name."""
    if request.param != "dev server":
        yield request.getfixturevalue(request.param)
        return
    with DevServer(tmp_path / "server", seed=3) as server:
        yield Served(server.url, DEV_KEY, "llama-3.2-1b", tmp_path)


def passed(served: Served, python: Path, module: str) -> tuple[set[str], set[str]]:
    """All steps, and those that a client passes on a server."""
    address = {"TINKER_BASE_URL": served.url, "TINKER_API_KEY": served.key, "TINKER_TELEMETRY": "0"}
    done = subprocess.run(
        [python, HERE / "steps_round.py", module, served.base_model, str(STEP_TIMEOUT_S)],
        env=os.environ | address, cwd=HERE.parents[1], capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    ended = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{module} on {served.url}: {json.dumps(ended, indent=1)}")  # noqa: T201
    return set(ended), {step for step, outcome in ended.items() if outcome == "ok"}


@pytest.mark.parametrize(("served", "name"), [(name, name) for name in LACKS], indirect=["served"])
def test_our_client_passes_every_step_that_the_server_has(served: Served, name: str, provided: Any) -> None:
    """And no step of the SDK's that ours does not."""
    version, lacks = LACKS[name]

    steps, ours = passed(served, Path(sys.executable), "backends.tinkex")
    _, theirs = passed(served, provided(f"sdk-{version}"), "tinker")

    assert steps - ours == lacks
    assert theirs <= ours
