"""The openai backend on a server that we did not write: ``transformers serve`` with a tiny model made here."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign import OFFLINE, free_port
from provision import HERE

from backends.openai import OpenAIBackend
from crucible import Completion, Options, Prompt, collect
from crucible.testing import BackendContract
from crucible.testing.loop import run_opened

PYTHON = "NSAI_TEST_TORCH_PYTHON"
"""The Python of an environment with torch and transformers[serving]."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The server's address and the name of its model."""
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"set {PYTHON} to the Python of an environment with torch and transformers[serving]")
    folder = tmp_path_factory.mktemp("serve")
    model = folder / "model"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | OFFLINE
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run([python, HERE / "tiny_model.py", model], check=True, env=environment, capture_output=True)
    port = free_port()
    command = [str(Path(python).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu", str(model)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    pytest.fail(f"the server did not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture
def backend(served: tuple[str, str]) -> OpenAIBackend:
    """What this server lacks is said in the settings; it ignores in silence what it does not know."""
    url, model = served
    return OpenAIBackend(
        {
            "base_url": url,
            "models": [model],
            "without": [
                "supports_tools",
                "supports_vision",
                "supports_json_mode",
                "supports_json_schema",
                "supports_logprobs",
                "supports_n",
            ],
            "without_options": ["presence_penalty", "top_k", "top_logprobs", "stop"],
        }
    )


class TestTransformersServe(BackendContract):
    """Every promise of the contract that the server can keep."""

    @pytest.fixture
    def backend(self, backend: OpenAIBackend) -> OpenAIBackend:
        return backend

    def test_a_stream_folds_to_a_completion(self, backend: OpenAIBackend) -> None:
        """But for white space: the server strips it off whole answers, and our model says little else."""
        prompt = self.prompt(seed=7, temperature=0)

        async def body(opened: OpenAIBackend) -> None:
            _same_but_for_white_space(await collect(opened.stream(prompt)), await opened.complete(prompt))

        run_opened(backend, body)


def _same_but_for_white_space(folded: Completion, completion: Completion) -> None:
    assert folded.text.strip() == completion.text
    assert folded.choices[0].finish_reason == completion.choices[0].finish_reason
    assert folded.usage == completion.usage


def test_a_conversation_streams_as_it_completes(backend: OpenAIBackend) -> None:
    """With roles and a system text, greedy: the stream adds up to the completion, and the server counted."""
    prompt = Prompt(
        messages=[
            {"role": "user", "content": "Say a word."},
            {"role": "assistant", "content": "Fox."},
            {"role": "user", "content": "Another."},
        ],
        system="Be brief.",
        options=Options(max_tokens=6, temperature=0, seed=1),
    )

    async def body(opened: OpenAIBackend) -> None:
        completion = await opened.complete(prompt)
        folded = await collect(opened.stream(prompt))
        _same_but_for_white_space(folded, completion)
        assert completion.usage is not None
        assert completion.usage.source == "provider"
        assert completion.usage.prompt_tokens > 40

    run_opened(backend, body)
