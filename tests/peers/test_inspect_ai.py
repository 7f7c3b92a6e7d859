"""inspect_ai, unchanged, evaluates a trained model by its provider of OpenAI-compatible servers."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from provision import HERE

from backends.tinkex_dev.server import DevServer
from tests.integration.chat_server.conftest import SAID, serving, trained_model, use

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "go",
            "description": "Goes there.",
            "parameters": {
                "type": "object",
                "properties": {"to": {"type": "string", "description": "Where to."}},
                "required": ["to"],
                "additionalProperties": False,
            },
        },
    }
]
"""What inspect_ai makes of the tool of the round."""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a chat server that serves a trained model as ``mine``."""
    with DevServer(tmp_path / "server", seed=0) as server:
        use(server, monkeypatch)
        with serving("tinkex", {"mine": trained_model(server, TOOLS)}) as url:
            yield url


def test_inspect_evaluates_the_trained_model(url: str, provided: Any, tmp_path: Path) -> None:
    """Whole answers and streams, stop sequences, several choices, log probabilities, and a tool that is called and
    answers."""
    python, out = provided("inspect"), tmp_path / "out.json"
    environment = os.environ | {"NSAI_BASE_URL": url, "NSAI_API_KEY": "none", "INSPECT_LOG_LEVEL": "warning"}
    done = subprocess.run(
        [python, HERE / "inspect_round.py", "openai-api/nsai/mine", out],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text())

    for name in ("plain", "streamed"):
        assert found[name]["score"] == "C", found
        assert (found[name]["texts"], found[name]["stop_reason"]) == ([SAID], "stop")
        assert found[name]["usage"] == len(SAID) + 1
    assert found["stop"]["texts"] == ["Off we go"], found["stop"]
    assert found["several"]["texts"] == [SAID, SAID], found["several"]
    assert found["logprobs"]["logprobs"] == len(SAID) + 1, found["logprobs"]
    for name in ("tools", "streamed-tools"):
        assert ["go", {"to": "Bonn"}] in found[name].get("calls", ()), found[name]
        assert "tool" in found[name]["roles"]
    for name, case in found.items():
        assert {*case["streams"]} == {name.startswith("streamed")}, name
