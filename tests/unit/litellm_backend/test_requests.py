"""Round trip from the IR through LiteLLM to a provider's request and back: no field is lost."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from backends.litellm_backend.models import facts_of
from backends.litellm_backend.requests import arguments
from backends.litellm_backend.settings import LiteLLMSettings
from crucible import Message, Options, Prompt, Role

# The same prompts, and the same way back, as the openai backend's own test.
_SPEC = importlib.util.spec_from_file_location(
    "openai_requests", Path(__file__).parents[1] / "openai" / "test_requests.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
openai_requests = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(openai_requests)

# What LiteLLM warns of on import or use is LiteLLM's.
pytestmark = pytest.mark.filterwarnings("default")

few = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def raw(library: Any, prompt: Prompt, model: str) -> dict[str, Any]:
    """The body that LiteLLM builds for the provider. Nothing is sent."""
    from litellm.types.utils import CallTypes
    from litellm.utils import return_raw_request

    told = arguments(prompt, facts_of(library, model, LiteLLMSettings()), LiteLLMSettings())
    answer = return_raw_request(CallTypes.completion, told)
    assert answer.get("error") is None, answer["error"]
    body: dict[str, Any] = json.loads(json.dumps(answer["raw_request_body"]))
    return body


@given(prompt=openai_requests.prompts())
@few
def test_openais_form_says_all_that_the_prompt_said(library: Any, prompt: Prompt) -> None:
    """Read back, it is the prompt."""
    body = raw(library, prompt, "openai/tiny-lm")
    for message in body["messages"]:
        message.setdefault("content", None)

    assert openai_requests.back(body) == prompt


def heard(prompt: Prompt) -> list[tuple[str, Any]]:
    """The prompt's messages, tool calls and results in order, as the provider receives them."""
    said: list[tuple[str, Any]] = []
    for message in prompt.conversation():
        if message.role is Role.TOOL:
            said.append(("result", (message.tool_call_id, message.text())))
            continue
        said += [(message.role.value, part.text) for part in message.parts() if part.text.strip()]
        said += [("call", (call.id, call.name, call.parsed_arguments())) for call in message.tool_calls]
    return said


def heard_by_anthropic(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The same from the body of Anthropic's own request."""
    said: list[tuple[str, Any]] = [("system", block["text"]) for block in body.get("system", ())]
    for message in body["messages"]:
        content = message["content"]
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if block["type"] == "text":
                said.append((message["role"], block["text"]))
            elif block["type"] == "tool_use":
                said.append(("call", (block["id"], block["name"], block["input"])))
            else:
                result = block.get("content", "")
                text = result if isinstance(result, str) else "".join(one["text"] for one in result)
                said.append(("result", (block["tool_use_id"], text)))
    return said


def test_a_foreign_form_says_all_that_the_prompt_said(library: Any) -> None:
    """Anthropic's format has other names for most fields."""
    weather = {"name": "weather", "description": "Of a town.", "parameters": {"type": "object", "properties": {}}}
    prompt = Prompt(
        system="Be brief.",
        messages=[
            Message(role="user", content="Hi"),
            Message(
                role="assistant",
                content="Let me see.",
                tool_calls=[{"id": "a1", "name": "weather", "arguments": {"town": "Ulm"}}],
            ),
            Message(role="tool", tool_call_id="a1", content="fine"),
            Message(role="user", content=[{"type": "text", "text": "And"}, {"type": "text", "text": "now?"}]),
        ],
        tools=[weather],
        tool_choice={"name": "weather"},
        options=Options(temperature=0.5, top_p=0.9, top_k=7, max_tokens=9, stop=["x", "y"]),
    )
    body = raw(library, prompt, "anthropic/claude-sonnet-4-5")

    assert heard_by_anthropic(body) == heard(prompt)
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.5, 0.9, 7, 9)
    assert body["stop_sequences"] == ["x", "y"]
    assert body["tool_choice"]["name"] == "weather"
    assert (body["tools"][0]["name"], body["tools"][0]["description"]) == ("weather", "Of a town.")


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-5", "gemini/gemini-2.0-flash"])
def test_top_k_reaches_providers_of_another_form(library: Any, model: str) -> None:
    """Under whatever name."""
    prompt = Prompt(messages=[Message(role="user", content="Hi")], options=Options(top_k=7))

    assert '"top_k": 7' in json.dumps(raw(library, prompt, model))
