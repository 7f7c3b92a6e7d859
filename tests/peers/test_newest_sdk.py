"""The newest calls of the official SDK on our development server."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from provision import HERE, SDK_VERSIONS

from backends.tinkex_dev.server import DevServer


def test_the_newest_sdk_gets_every_new_call_answered(provided: Any, tmp_path: Path) -> None:
    """Spans, losses, chosen tokens, a joined sampling session, external weights, the tokenizer without a hub."""
    python = provided(f"sdk-{SDK_VERSIONS[-1]}")
    with DevServer(tmp_path / "state") as server:
        done = subprocess.run(
            [python, HERE / "newest_round.py", server.url], env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        samples, live = server.log(kind="sample"), server.live_runs()
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)

    total, losses = sum(found["logprobs"]), found["losses"]
    assert losses["stable_reinforce"]["loss:sum"] == pytest.approx(-total, rel=1e-4)
    assert losses["stable_reinforce"]["stable_reinforce_stand_in:max"] == 1.0
    assert losses["importance_sampling"]["loss:sum"] == pytest.approx(-len(found["logprobs"]), rel=1e-4)
    assert losses["gspo"]["loss:sum"] == pytest.approx(-len(found["logprobs"]), rel=1e-4)
    assert losses["custom"]["custom/gain:sum"] == pytest.approx(total, rel=1e-4)
    assert found["repeated"]
    assert found["ids"] == 3
    assert (found["targets"], found["alternatives"]) == ([4, 2], [4, 3])
    assert found["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert [entry["replayed"] for entry in samples] == [False, False]
    assert samples[1]["seq_id"] >= 1_000_000_000
    assert live == []
