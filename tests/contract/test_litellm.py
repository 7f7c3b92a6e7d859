"""The litellm backend keeps the contract, through LiteLLM and over real HTTP."""

from collections.abc import Iterator

import pytest

pytest.importorskip("litellm")

from backends.litellm import LiteLLMBackend
from crucible import (
    AuthenticationFailed,
    BackendUnavailable,
    CapacityError,
    InvalidRequest,
    Options,
    Prompt,
    collect,
)
from crucible.testing import BackendContract
from crucible.testing.loop import run_opened
from tests.contract.openai_server import KEY, OpenAIServer

# What LiteLLM warns of on import or use is LiteLLM's.
pytestmark = pytest.mark.filterwarnings("default")

PROMPT = Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options(max_tokens=8))
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    """One server for all tests here."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def backend(server) -> LiteLLMBackend:
    """A backend for the server, which tries nothing twice."""
    return LiteLLMBackend(
        {
            "api_base": server.url,
            "api_key": KEY,
            "models": ["openai/tiny-lm"],
            "max_retries": 0,
            "without_options": ["top_k"],
        }
    )


class TestLiteLLM(BackendContract):
    """Every promise of the contract."""

    @pytest.fixture
    def backend(self, backend: LiteLLMBackend) -> LiteLLMBackend:
        return backend


def test_a_tool_call_comes_back_whole_and_in_pieces(backend: LiteLLMBackend) -> None:
    """The stream adds up to the same."""
    asked = Prompt.model_validate({**PROMPT.model_dump(), "tools": [WEATHER], "tool_choice": {"name": "weather"}})

    async def body(opened: LiteLLMBackend) -> None:
        completion = await opened.complete(asked)
        assert completion.choices[0].message.tool_calls[0].parsed_arguments() == {"town": "Ulm"}
        assert (await collect(opened.stream(asked))).choices == completion.choices

    run_opened(backend, body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequest), (401, AuthenticationFailed), (429, CapacityError), (503, BackendUnavailable)],
)
def test_failures_are_classified(server, backend: LiteLLMBackend, status: int, kind: type) -> None:
    """Each by its class, with the backend's name."""
    server.refuse_next = (status, {"message": "so it is"}, {})
    with pytest.raises(kind) as caught:
        run_opened(backend, lambda opened: opened.complete(PROMPT))

    assert caught.value.backend == "litellm"
