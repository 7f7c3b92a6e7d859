"""Every answer of the table, through the litellm backend: whole and streamed, good and bad."""

import gzip
import importlib.util
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

if importlib.util.find_spec("litellm") is None:
    pytest.skip("the extra litellm is not installed; make extras runs these", allow_module_level=True)

from backends.litellm_backend import LiteLLMBackend
from crucible import CrucibleError, Prompt
from crucible.errors import MalformedAnswer
from crucible.testing.loop import run_opened
from tests.contract.answer_forms import Scenario
from tests.contract.answer_judge import judge
from tests.contract.answer_scenarios import SCENARIOS
from tests.contract.answer_server import Answer, AnswerServer

# What LiteLLM warns of on import or use is LiteLLM's.
pytestmark = pytest.mark.filterwarnings("default")

MODEL = "openai/m"
PROMPT = Prompt.model_validate({"messages": [{"role": "user", "content": "Hi there"}], "options": {"model": MODEL}})
COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}


@pytest.fixture(scope="module")
def server() -> Iterator[AnswerServer]:
    """One server for all tests here."""
    with AnswerServer() as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_answer(server: AnswerServer, scenario: Scenario) -> None:
    """Complete and stream give the same, or the same error; it is in our family and of the right class."""
    judge(LiteLLMBackend(config_of(server)), server, scenario, PROMPT)


def config_of(server: AnswerServer, **settings: object) -> dict[str, Any]:
    """Settings for the server."""
    return {"api_base": server.url, "api_key": "sk-0123456789", "models": [MODEL], "max_retries": 0, **settings}


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_bomb_is_malformed(server: AnswerServer, encoding: str) -> None:
    """Whole and streamed; no more than the limit is decompressed."""
    bomb = Answer((COMPRESS[encoding](bytes(64 << 20)),), headers={"Content-Encoding": encoding})
    bad = Scenario("a bomb", bomb, bomb, error=MalformedAnswer, says="larger than 1000000 bytes")
    backend = LiteLLMBackend(config_of(server, max_response_bytes=1_000_000))
    tracemalloc.start()
    try:
        judge(backend, server, bad, PROMPT)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-5", "openai/m"])
def test_a_bomb_with_an_error_or_of_another_provider_is_bounded(
    server: AnswerServer, encoding: str, model: str
) -> None:
    """These answers LiteLLM reads itself."""
    status = 200 if model.startswith("anthropic") else 400
    headers = {"Content-Encoding": encoding}
    server.whole = server.streamed = Answer(
        (COMPRESS[encoding](b" " * (64 << 20)),), status=status, headers=headers
    )
    settings = {"models": [model], "max_response_bytes": 1_000_000}
    backend = LiteLLMBackend(config_of(server, **settings))
    prompt = PROMPT.model_copy(update={"options": PROMPT.options.model_copy(update={"model": model})})
    tracemalloc.start()
    try:
        with pytest.raises(CrucibleError):
            run_opened(backend, lambda opened: opened.complete(prompt))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
