"""The litellm backend keeps the contract, through LiteLLM and over real HTTP."""

import importlib.util
import json
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("litellm") is None:
    pytest.skip("the extra litellm is not installed; make extras runs these", allow_module_level=True)

from backends.litellm_backend import LiteLLMBackend
from crucible import (
    AuthenticationFailed,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    FinishReason,
    InvalidRequest,
    OutOfCredit,
    Prompt,
    RequestTimeout,
    UsageSource,
    collect,
)
from crucible.testing import BackendContract
from crucible.testing.loop import run_opened

_SPEC = importlib.util.spec_from_file_location("openai_server", Path(__file__).parent / "openai_server.py")
assert _SPEC is not None
assert _SPEC.loader is not None
openai_server = importlib.util.module_from_spec(_SPEC)
sys.modules["openai_server"] = openai_server
_SPEC.loader.exec_module(openai_server)

# What LiteLLM warns of on import or use is LiteLLM's.
pytestmark = pytest.mark.filterwarnings("default")

MODEL = "openai/tiny-lm"
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}


class Server(openai_server.OpenAIServer):
    """``uncounted`` leaves the usage out of its streams."""

    uncounted = False

    async def _chunks(self, head: Any, choices: Any, usage: Any) -> AsyncIterator[str]:
        async for line in super()._chunks(head, choices, usage):
            if not (self.uncounted and '"usage"' in line):
                yield line


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests here."""
    with Server() as server:
        yield server


def made(server: Server, **config: Any) -> LiteLLMBackend:
    """A backend for the server, which tries nothing twice."""
    return LiteLLMBackend(
        {
            "api_base": server.url,
            "api_key": openai_server.KEY,
            "models": [MODEL],
            "max_retries": 0,
            "supports": ["supports_vision", "supports_json_schema"],
            **config,
        }
    )


@pytest.fixture
def backend(server: Server) -> LiteLLMBackend:
    """One that says of the model what LiteLLM's tables do not know."""
    return made(server)


def prompt(**fields: Any) -> Prompt:
    """A short prompt."""
    options = {"max_tokens": 8, "temperature": 0, **(fields.pop("options", None) or {})}
    return Prompt.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields, "options": options})


class TestLiteLLM(BackendContract):
    """Every promise of the contract."""

    @pytest.fixture
    def backend(self, backend: LiteLLMBackend) -> LiteLLMBackend:
        return backend


class TestLiteLLMWithLess(BackendContract):
    """What is not claimed is refused, and everything else still works."""

    @pytest.fixture
    def backend(self, server: Server) -> LiteLLMBackend:
        without = ["supports_streaming", "supports_tools", "supports_n", "supports_logprobs"]
        return made(server, supports=[], without=without, without_options=["seed", "stop"])


class TestLiteLLMWithAnyModel(BackendContract):
    """Without a list, any model that LiteLLM can reach may be asked; each is held to what it can do itself."""

    model = MODEL

    @pytest.fixture
    def backend(self, server: Server) -> LiteLLMBackend:
        return made(server, models=[])


def test_a_tool_call_comes_back_whole_and_in_pieces(backend: LiteLLMBackend) -> None:
    """Its arguments parsed, and the stream adds up to the same, to the tokens that were cached."""
    asked = prompt(tools=[WEATHER], tool_choice={"name": "weather"})

    async def body(opened: LiteLLMBackend) -> None:
        completion = await opened.complete(asked)
        folded = await collect(opened.stream(asked))
        choice = completion.choices[0]
        assert choice.finish_reason is FinishReason.TOOL_CALLS
        assert choice.message.tool_calls[0].parsed_arguments() == {"town": "Ulm"}
        assert folded.choices == completion.choices
        assert folded.usage == completion.usage
        assert completion.usage is not None
        assert completion.usage.cached_tokens == 3
        assert completion.usage.thinking_tokens is None

    run_opened(backend, body)


def test_all_that_is_asked_reaches_the_server(server: Server, backend: LiteLLMBackend) -> None:
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
    }
    asked = prompt(options={**options, "extra": {"min_p": 0.1, "api_base": "http://example.org"}}, system="Brief.")
    run_opened(backend, lambda opened: opened.complete(asked))

    sent = server.bodies[-1]
    assert {name: sent[name] for name in options} == options
    assert sent["min_p"] == 0.1
    assert sent["api_base"] == "http://example.org"  # a field for the server, not a switch of LiteLLM
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


def test_several_answers_are_streamed_too(backend: LiteLLMBackend) -> None:
    """Each with its own end, though LiteLLM's own streams end them all with the first."""
    asked = prompt(options={"n": 2, "seed": 1})

    async def body(opened: LiteLLMBackend) -> None:
        assert (await collect(opened.stream(asked))).choices == (await opened.complete(asked)).choices

    run_opened(backend, body)


@pytest.mark.parametrize(
    ("status", "error", "headers", "kind", "said"),
    [
        (400, {"message": "too hot", "param": "temperature"}, {}, InvalidRequest, "temperature"),
        (404, {"message": "no such model"}, {}, InvalidRequest, "options.model"),
        (422, {"message": "what"}, {}, InvalidRequest, "what"),
        (403, {"message": "no"}, {}, AuthenticationFailed, "refused"),
        (402, {"message": "pay"}, {}, OutOfCredit, "pay"),
        (429, {"message": "slow down"}, {"retry-after": "2"}, CapacityError, "slow down"),
        (429, {"message": "pay", "code": "insufficient_quota"}, {}, OutOfCredit, "pay"),
        (500, {"message": "oops"}, {}, BackendUnavailable, "oops"),
        (503, {"message": "busy"}, {"retry-after-ms": "70"}, BackendUnavailable, "busy"),
        (408, {"message": "late"}, {}, RequestTimeout, "late"),
        (409, {"message": "again"}, {}, BackendUnavailable, "again"),
    ],
    ids=["400", "404", "422", "403", "402", "429", "429 quota", "500", "503", "408", "409"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["complete", "stream"])
def test_failures_are_classified(
    server: Server,
    backend: LiteLLMBackend,
    status: int,
    error: dict[str, str],
    headers: dict[str, str],
    kind: type[CrucibleError],
    said: str,
    streamed: bool,
) -> None:
    """Each by its class, with the wait that the server asks for."""
    server.refuse_next = (status, error, headers)
    with pytest.raises(kind, match=said) as caught:
        run_opened(
            backend, lambda opened: collect(opened.stream(prompt())) if streamed else opened.complete(prompt())
        )

    assert caught.value.backend == "litellm"
    waits = {"retry-after": 2000, "retry-after-ms": 70}
    assert caught.value.retry_after_ms == next((waits[name] for name in headers), None)


def test_a_refused_key_is_not_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Though the server quotes it: not in the error, its traceback, the backend or a log."""
    key = "sk-wrong-key-0123456789"
    backend = made(server, api_key=key)
    with pytest.raises(AuthenticationFailed, match="openai") as caught:
        run_opened(backend, lambda opened: opened.complete(prompt()))

    shown = "".join(traceback.format_exception(caught.value))
    assert key not in f"{shown}{caught.value!r}{caught.value.details}{backend.__dict__}{caplog.text}"


def test_a_key_in_any_other_error_is_hidden(server: Server, backend: LiteLLMBackend) -> None:
    """Servers quote it where they like."""
    server.refuse_next = (400, {"message": f"your key {openai_server.KEY} is nice"}, {})
    with pytest.raises(InvalidRequest, match="hidden") as caught:
        run_opened(backend, lambda opened: opened.complete(prompt()))

    assert openai_server.KEY not in "".join(traceback.format_exception(caught.value))


def test_a_stream_that_breaks_off_is_no_answer(server: Server, backend: LiteLLMBackend) -> None:
    """Half an answer is an error that may be tried again, though LiteLLM ends it as if it were whole."""
    server.break_stream_after = 2
    try:
        with pytest.raises(BackendUnavailable, match="broke off"):
            run_opened(backend, lambda opened: collect(opened.stream(prompt())))
    finally:
        server.break_stream_after = None


def test_a_stream_may_be_left_early(backend: LiteLLMBackend) -> None:
    """Its connection is given back, and the backend goes on."""

    async def body(opened: LiteLLMBackend) -> None:
        events = opened.stream(prompt())
        await anext(events)
        await events.aclose()
        assert (await opened.complete(prompt())).choices

    run_opened(backend, body)


def test_a_stream_without_counts_is_estimated(server: Server) -> None:
    """And says so; its cost is not known, and LiteLLM does not fetch the image to count its tokens."""
    backend = made(server, cost_per_million_input=1, cost_per_million_output=2)
    server.uncounted = True
    with socket.create_server(("127.0.0.1", 0)) as place:
        place.setblocking(False)
        image = {"type": "image", "url": f"http://127.0.0.1:{place.getsockname()[1]}/a.png"}
        asked = prompt(messages=[{"role": "user", "content": [image]}])
        try:
            completion = run_opened(backend, lambda opened: collect(opened.stream(asked)))
        finally:
            server.uncounted = False
        with pytest.raises(BlockingIOError):
            place.accept()

    assert completion.usage is not None
    assert completion.usage.source is UsageSource.ESTIMATED
    assert completion.cost is None


def test_the_cost_is_counted_or_not_known(server: Server, backend: LiteLLMBackend) -> None:
    """None for a model that no table prices; by the settings' prices otherwise, streamed or not."""
    priced = made(server, cost_per_million_input=1e6, cost_per_million_output=2e6)

    async def body(opened: LiteLLMBackend) -> tuple[float | None, float | None]:
        return (await opened.complete(prompt())).cost, (await collect(opened.stream(prompt()))).cost

    completion = run_opened(backend, lambda opened: opened.complete(prompt()))
    assert completion.cost is None
    assert completion.usage is not None
    dollars = completion.usage.prompt_tokens + 2 * completion.usage.completion_tokens
    assert run_opened(priced, body) == (dollars, dollars)


def test_closing_one_backend_leaves_the_others_their_connections(server: Server) -> None:
    """Two on one loop, and one that is opened again on it."""

    async def body(first: LiteLLMBackend) -> None:
        async with made(server) as second:
            await second.complete(prompt())
        await first.complete(prompt())
        await first.close()
        await first.open()
        await first.complete(prompt())

    run_opened(made(server), body)


def test_a_server_that_is_away_is_not_healthy() -> None:
    """An answer, not an exception; a completion says that it cannot be reached."""
    backend = LiteLLMBackend({"api_base": "http://127.0.0.1:9/v1", "max_retries": 0, "models": ["openai/m"]})

    assert not run_opened(backend, lambda opened: opened.health_check()).ok
    with pytest.raises(BackendUnavailable):
        run_opened(backend, lambda opened: opened.complete(prompt()))


def test_a_refused_key_is_not_healthy(server: Server) -> None:
    """Said by the server that the settings name."""
    health = run_opened(made(server, api_key="sk-wrong-key"), lambda opened: opened.health_check())

    assert not health.ok
    assert "refused" in (health.reason or "")


def test_nothing_but_the_named_server_is_asked(server: Server, tmp_path: Path) -> None:
    """From before LiteLLM's import to the end of a process: one address, no callbacks of the process, no .env file
    read, and no variable changed but those that keep LiteLLM from the network."""
    (tmp_path / ".env").write_text("FROM_DOTENV=1\n")
    script = """
import asyncio, json, os, sys
places = []
def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        places.append(list(args[1][:2]))
    if event == "socket.getaddrinfo":
        places.append([str(args[0]), args[1]])
sys.addaudithook(watch)
before = dict(os.environ)
from backends.litellm_backend import LiteLLMBackend
from crucible import Prompt, collect
config, tools = json.loads(sys.argv[1])
plain = Prompt.model_validate({"messages": [{"role": "user", "content": "Hi"}], "options": {"max_tokens": 4}})
calling = plain.model_copy(update={"tools": Prompt.model_validate({"tools": tools}).tools})
seen = []
async def ask():
    async with LiteLLMBackend(config) as backend:
        import litellm
        async def callback(*args): seen.append(args)
        litellm.success_callback.append(lambda *args: seen.append(args))
        litellm._async_success_callback.append(callback)
        for prompt in (plain, calling):
            await backend.complete(prompt)
            await collect(backend.stream(prompt))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait([task], timeout=0.5)
asyncio.run(ask())
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
print(json.dumps([places, sorted(changed), len(seen)]))
"""
    config = {"api_base": server.url, "api_key": openai_server.KEY, "models": [MODEL]}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([config, [WEATHER]])],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    places, changed, seen = json.loads(done.stdout.splitlines()[-1])

    port = int(server.url.split(":")[2].split("/")[0])
    assert places
    assert {(host, int(at)) for host, at in places} == {("127.0.0.1", port)}
    assert seen == 0
    # the last is LiteLLM's own doing: tiktoken reads the tables that LiteLLM brings instead of fetching them
    assert changed == [
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
        "LITELLM_LOCAL_MODEL_COST_MAP",
        "TIKTOKEN_CACHE_DIR",
    ]
