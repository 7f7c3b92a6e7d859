"""LiteLLM, unchanged, as a client of a chat server over a trained tinkex model."""

import json
from typing import Any

import pytest

from backends.tinkex_dev.server import DevServer
from tests.integration.chat_server.conftest import ASKED, SAID, TOOLS

pytest.importorskip("litellm")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def asked(url: str) -> dict[str, Any]:
    """The arguments of every call."""
    return {
        "model": "openai/mine",
        "api_base": url,
        "api_key": "none",
        "messages": ASKED,
        "temperature": 0,
        "max_tokens": 100,
        "num_retries": 0,
    }


@pytest.mark.parametrize("n", [1, 2])
def test_a_chat(asked: dict[str, Any], n: int) -> None:
    """With the trained answer, and usage."""
    import litellm

    answer = litellm.completion(**asked, n=n)

    assert [choice.message.content for choice in answer.choices] == [SAID] * n
    assert answer.usage.completion_tokens == n * (len(SAID) + 1)


def test_a_stream(asked: dict[str, Any]) -> None:
    """Which adds up, with usage at its end."""
    import litellm

    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))

    whole = litellm.stream_chunk_builder(chunks)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (SAID, "stop")
    assert whole.usage.completion_tokens == len(SAID) + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(asked: dict[str, Any], stream: bool) -> None:
    """And its result goes back."""
    import litellm

    answer = litellm.completion(**asked, tools=TOOLS, stream=stream)
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer

    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("go", {"to": "Bonn"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "arrived"}
    messages = [*ASKED, answer.choices[0].message.model_dump(), result]
    assert litellm.completion(**{**asked, "messages": messages, "tools": TOOLS}).usage.prompt_tokens > 100


def test_stop_and_errors(asked: dict[str, Any], dev_server: DevServer) -> None:
    """A stop sequence ends the answer; an error is LiteLLM's own for it."""
    import litellm

    assert litellm.completion(**asked, stop=[", to"]).choices[0].message.content == "Off we go"
    with pytest.raises(litellm.BadRequestError, match="presence_penalty"):
        litellm.completion(**asked, presence_penalty=1.0)
    with pytest.raises(litellm.NotFoundError, match="did you mean mine"):
        litellm.completion(**{**asked, "model": "openai/minne"})
