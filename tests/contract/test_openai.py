"""The openai backend keeps the contract, through the official library and over real HTTP."""

from collections.abc import Iterator

import pytest

pytest.importorskip("openai")


from backends.openai import OpenAIBackend
from crucible import (
    AuthenticationFailed,
    BackendUnavailable,
    CapacityError,
    CredentialMissing,
    CrucibleError,
    FinishReason,
    InvalidRequest,
    Options,
    OutOfCredit,
    Prompt,
    RequestTimeout,
    collect,
)
from crucible.testing import BackendContract
from crucible.testing.loop import run_opened
from tests.contract.openai_server import KEY, OpenAIServer

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    """One server for all tests here."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def backend(server) -> OpenAIBackend:
    """A backend for the server, which tries nothing twice."""
    return OpenAIBackend({"base_url": server.url, "api_key": KEY, "max_retries": 0})


def prompt(**fields: object) -> Prompt:
    """A short prompt."""
    options = {"model": "tiny-lm", "max_tokens": 8, "temperature": 0, **(fields.pop("options", None) or {})}
    return Prompt.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields, "options": options})


class TestOpenAI(BackendContract):
    """Every promise of the contract."""

    @pytest.fixture
    def backend(self, backend: OpenAIBackend) -> OpenAIBackend:
        return backend


class TestOpenAIWithLess(BackendContract):
    """What a server lacks is refused, and everything else still works."""

    @pytest.fixture
    def backend(self, server) -> OpenAIBackend:
        return OpenAIBackend(
            {
                "base_url": server.url,
                "api_key": KEY,
                "without": ["supports_streaming", "supports_tools", "supports_vision", "supports_n"],
                "without_options": ["seed", "stop"],
            }
        )


def test_a_tool_call_comes_back_whole_and_in_pieces(backend: OpenAIBackend) -> None:
    """Its arguments parsed, and the stream adds up to the same."""
    asked = prompt(tools=[WEATHER], tool_choice={"name": "weather"})

    async def body(opened: OpenAIBackend) -> None:
        completion = await opened.complete(asked)
        folded = await collect(opened.stream(asked))
        choice = completion.choices[0]
        assert choice.finish_reason is FinishReason.TOOL_CALLS
        assert choice.message.tool_calls[0].parsed_arguments() == {"town": "Ulm"}
        assert folded.choices == completion.choices
        assert folded.usage == completion.usage
        assert completion.usage is not None
        assert completion.usage.cached_tokens == 3

    run_opened(backend, body)


def test_all_that_is_asked_reaches_the_server(server, backend: OpenAIBackend) -> None:
    """No option is dropped on the way."""
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "stop": ["x"],
        "seed": 3,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "max_tokens": 5,
        "extra": {"min_p": 0.1},
    }
    run_opened(backend, lambda opened: opened.complete(prompt(options=options, system="Be brief.")))

    sent = server.bodies[-1]
    assert {name: sent[name] for name in options if name != "extra"} == {
        k: v for k, v in options.items() if k != "extra"
    }
    assert sent["min_p"] == 0.1
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("status", "error", "headers", "kind", "said"),
    [
        (400, {"message": "too hot", "param": "temperature"}, {}, InvalidRequest, "temperature"),
        (404, {"message": "no such model"}, {}, InvalidRequest, "options.model"),
        (429, {"message": "slow down"}, {"retry-after": "2"}, CapacityError, "slow down"),
        (429, {"message": "pay", "code": "insufficient_quota"}, {}, OutOfCredit, "pay"),
        (500, {"message": "oops"}, {}, BackendUnavailable, "oops"),
        (503, {"message": "busy"}, {"retry-after-ms": "70"}, BackendUnavailable, "busy"),
        (408, {"message": "late"}, {}, RequestTimeout, "late"),
    ],
    ids=["400", "404", "429", "429 quota", "500", "503", "408"],
)
def test_failures_are_classified(
    server,
    backend: OpenAIBackend,
    status: int,
    error: dict[str, str],
    headers: dict[str, str],
    kind: type,
    said: str,
) -> None:
    """Each by its class, with the wait that the server asks for."""

    async def body(opened: OpenAIBackend) -> CrucibleError:
        await opened.capabilities()
        server.refuse_next = (status, error, headers)
        with pytest.raises(kind, match=said) as caught:
            await opened.complete(prompt())
        return caught.value

    raised = run_opened(backend, body)

    assert raised.backend == "openai"
    waits = {"retry-after": 2000, "retry-after-ms": 70}
    assert raised.retry_after_ms == next((waits[name] for name in headers), None)


def test_a_refused_key_is_named_and_not_shown(server) -> None:
    """Though the server quotes it."""
    backend = OpenAIBackend({"base_url": server.url, "api_key": "sk-wrong-key", "models": ["tiny-lm"]})
    with pytest.raises(AuthenticationFailed, match="OPENAI_API_KEY") as caught:
        run_opened(backend, lambda opened: opened.complete(prompt()))

    assert "sk-wrong-key" not in f"{caught.value!r}{caught.value.details}{backend.__dict__}"


def test_a_stream_that_breaks_off_is_no_answer(server, backend: OpenAIBackend) -> None:
    """Half an answer is an error that may be tried again, never a short answer."""
    server.break_stream_after = 2
    try:
        with pytest.raises(BackendUnavailable, match="broke off"):
            run_opened(backend, lambda opened: collect(opened.stream(prompt())))
    finally:
        server.break_stream_after = None


def test_a_server_that_is_away_is_not_healthy() -> None:
    """An answer, not an exception; a completion says that it cannot be reached."""
    backend = OpenAIBackend({"base_url": "http://127.0.0.1:9/v1", "max_retries": 0, "models": ["m"]})

    assert not run_opened(backend, lambda opened: opened.health_check()).ok
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        run_opened(backend, lambda opened: opened.complete(prompt(options={"model": "m"})))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"without": ["supports_magic"]}, "without"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
    ids=["no scheme", "unknown capability", "no time"],
)
def test_wrong_settings_are_refused_when_it_is_made(config: dict[str, object], said: str) -> None:
    """Naming the setting."""
    with pytest.raises(InvalidRequest, match=said):
        OpenAIBackend(config)


def test_a_missing_key_is_an_error_of_its_own() -> None:
    """A worker without a key leaves the job to a worker that has one."""
    with pytest.raises(CredentialMissing, match="OPENAI_API_KEY"):
        OpenAIBackend({"base_url": "https://example.org/v1"})


def test_a_time_limit_is_kept(backend: OpenAIBackend) -> None:
    """By the option."""
    slow = OpenAIBackend({"base_url": "http://127.0.0.1:9/v1", "models": ["m"]})
    del backend
    with pytest.raises((RequestTimeout, BackendUnavailable)):
        run_opened(slow, lambda opened: opened.complete(prompt(options={"model": "m", "timeout_ms": 1})))


def test_options_are_a_record() -> None:
    """The limit's name follows the server."""
    from backends.openai.requests import request_body

    asked = Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options(max_tokens=3))
    assert request_body(asked, "m", "max_completion_tokens", thinking=None)["max_completion_tokens"] == 3
