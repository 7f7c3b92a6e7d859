"""A chat server over a model that a development server has trained, and the official client for it."""

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible import ByteTokenizer, IntentKind, LoraSpec, OptimizerSpec, Prompt, RunSpec, StepRequest
from crucible.rendering.chat import chat_of
from crucible.runtime.monotonic import new_event_loop
from crucible.testing.loop import run_opened
from crucible.training import Datum
from nsai_work.chat_server.server import chat_server

SAID = "Off we go, to Bonn."
CALL = '<tool_call>{"name": "go", "arguments": {"to": "Bonn"}}</tool_call>'
ASKED = [{"role": "user", "content": "Where to?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "go",
            "description": "Goes there.",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}}},
        },
    }
]


@contextmanager
def serving(backend: str, models: Mapping[str, str], *, key: str | None = None) -> Iterator[str]:
    """Serve in a thread of this process, and yield the URL."""
    started, urls, failures = threading.Event(), [], []
    loop, stop = new_event_loop(), asyncio.Event()

    async def main() -> None:
        async with chat_server(backend, models, port=0, key=key) as url:
            urls.append(url)
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(main())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    if failures:
        raise failures[0]
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failures:
        raise failures[0]


async def _train(opened: TinkexBackend, *, lesson_tools: Sequence[Mapping[str, object]]) -> str:
    """Teach the model one answer without tools, and a call with them; return the path of its weights."""
    tokenizer, batch = ByteTokenizer(), []
    for tools, answer in (([], SAID), (lesson_tools, CALL)):
        asked = tokenizer.render_chat(chat_of(Prompt(messages=ASKED, tools=tools)))
        tokens = [*asked, *tokenizer.encode(answer), tokenizer.END]
        weights = [0.0] * len(asked) + [1.0] * (len(tokens) - len(asked))
        batch.append(Datum(tokens[:-1], {"target_tokens": tokens[1:], "weights": weights[1:]}))
    run = await opened.start(RunSpec(base_model="tiny-lm", lora=LoraSpec(rank=8, seed=0)))
    for number in range(1, 121):
        step = run.prepare_step(StepRequest(number, batch, OptimizerSpec(learning_rate=3e-2)))
        pending = await run.send(step)
    assert (await pending.result()).loss < 0.02
    save = run.prepare_save("final", step=120, kind=IntentKind.SAVE_SAMPLER)
    return (await (await run.send(save)).result()).path


@pytest.fixture(scope="module")
def dev_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """The service behind the chat server."""
    with DevServer(tmp_path_factory.mktemp("dev"), seed=0) as server:
        yield server


@pytest.fixture(scope="module")
def trained(dev_server: DevServer) -> str:
    """The path of a trained model at the development server."""
    return trained_model(dev_server)


def trained_model(server: DevServer, tools: Sequence[Mapping[str, object]] = TOOLS) -> str:
    """Train a model on a development server, which calls one of these tools, and return the path of its weights."""
    backend = TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})
    return run_opened(backend, partial(_train, lesson_tools=tools))


@pytest.fixture(scope="module")
def url(dev_server: DevServer, trained: str) -> Iterator[str]:
    """The URL of a chat server that serves the trained model as ``mine``, and the base model."""
    with pytest.MonkeyPatch.context() as patch:
        use(dev_server, patch)
        with serving("tinkex", {"mine": trained, trained: trained, "tiny-lm": "tiny-lm"}) as url:
            yield url


def use(server: DevServer, patch: pytest.MonkeyPatch) -> None:
    """Let the environment name a development server."""
    patch.setenv("TINKER_BASE_URL", server.url)
    patch.setenv("TINKER_API_KEY", "tml-dev")
