"""Every answer of the table, through the litellm backend: whole and streamed, good and bad."""

import contextlib
import importlib.util
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("litellm") is None:
    pytest.skip("the extra litellm is not installed; make extras runs these", allow_module_level=True)

from backends.litellm_backend import LiteLLMBackend
from crucible import CrucibleError, Prompt, collect
from crucible.testing.loop import run_opened
from tests.contract.answer_forms import Scenario
from tests.contract.answer_judge import judge
from tests.contract.answer_scenarios import SCENARIOS
from tests.contract.answer_server import AnswerServer

# What LiteLLM warns of on import or use is LiteLLM's.
pytestmark = pytest.mark.filterwarnings("default")

MODEL = "openai/m"
PROMPT = Prompt.model_validate({"messages": [{"role": "user", "content": "Hi there"}], "options": {"model": MODEL}})
IGNORED = {"raw_finish_reason", "id"}
"""LiteLLM translates reasons, and makes up ids of its own."""

CHANGED = {
    # reasons: LiteLLM reads those that it does not know as stop, in a stream without a trace, and none as a cut
    *("finish reason 'refusal'", "finish reason 'error'", "finish reason 'tool_call'", "finish reason 'abort'"),
    *("finish reason 'something new'", "finish reason ''", "finish reason None"),
    # parts: it drops them from streams, and fails on them in whole answers
    *("empty tool calls beside one", "content as a list with thinking", "content as a list of strings"),
    *("thinking in reasoning_content", "thinking in reasoning"),  # and adds its own empty text
    *("a refusal", "a refusal after some text", "a refusal as a part", "a part of an unknown type"),
    *("a byte order mark", "log probability null"),
    # usage: it makes up zeros, and knows fewer places
    *("usage in a choice", "usage in x_groq", "cached tokens in cached_tokens", "usage missing"),
    "usage of wrong types",
    # errors: it keeps neither code nor type of these
    *("an error with status 200: rate_limit_exceeded", "an error with status 200: insufficient_quota"),
    *("an error with status 200: context_length_exceeded", "an error with status 200: type server_error"),
    *("an error with status 200: text", "an error with status 200: object error"),
    # streams that are none: it ends them as if they were cut
    *("a stream cut inside an event", "a stream without an answer", "a whole answer instead of a stream"),
    *("HTML as text/html", "HTML as application/json", "HTML as text/event-stream"),
    "a chunk that is none: content of wrong type",
}
"""Answers that LiteLLM changes before our backend reads them: they become an answer, or an error of our family."""


@pytest.fixture(scope="module")
def server() -> Iterator[AnswerServer]:
    """One server for all tests here."""
    with AnswerServer() as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_answer(server: AnswerServer, scenario: Scenario) -> None:
    """Complete and stream give the same, or the same error; it is in our family and of the right class."""
    config = {"api_base": server.url, "api_key": "sk-0123456789", "models": [MODEL], "max_retries": 0}
    backend = LiteLLMBackend(config)
    if scenario.name not in CHANGED:
        judge(backend, server, scenario, PROMPT, IGNORED)
        return
    for answer, run in (
        (scenario.whole, lambda opened: opened.complete(PROMPT)),
        (scenario.streamed, lambda opened: collect(opened.stream(PROMPT))),
    ):
        if answer is not None:
            server.whole = server.streamed = answer
            with contextlib.suppress(CrucibleError):
                run_opened(backend, run)


def test_every_change_is_of_a_scenario() -> None:
    """None is excused that does not exist."""
    assert {scenario.name for scenario in SCENARIOS} >= CHANGED
