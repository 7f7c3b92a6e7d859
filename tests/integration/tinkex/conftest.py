"""A development server over real HTTP, clients that are closed again, and a batch to train on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backends.tinkex import RetryConfig, ServiceClient, TrainingClient
from backends.tinkex.types import Datum, ModelInput
from backends.tinkex.wire.transport import HttpLimits
from backends.tinkex_dev.server import DevServer

if TYPE_CHECKING:
    from scripted_server import ScriptedServer

sys.path.insert(0, str(Path(__file__).parent))

QUICK = RetryConfig(initial_delay_s=0.01, max_delay_s=0.05, give_up_after_s=2.0)
MakeServer = Callable[..., DevServer]
MakeService = Callable[..., ServiceClient]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Servers with options of the test's own."""
    with ExitStack() as stack:

        def make(**options: Any) -> DevServer:
            return stack.enter_context(DevServer(tmp_path / "state", **options))

        yield make


@pytest.fixture
def server(make_server: MakeServer) -> DevServer:
    """A server as it comes."""
    return make_server()


@pytest.fixture
def make_service() -> Iterator[MakeService]:
    """Blocking clients, quick to retry, closed at the end."""
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> ServiceClient:
            return stack.enter_context(ServiceClient("tml-test", url, **{"retry": QUICK, **options}))

        yield make


@pytest.fixture
def service(server: DevServer, make_service: MakeService) -> ServiceClient:
    """A blocking client of the server."""
    return make_service(server.url)


@pytest.fixture
def scripted() -> "Iterator[ScriptedServer]":
    """A server with scripted responses."""
    from scripted_server import ScriptedServer

    with ScriptedServer() as server:
        yield server


@pytest.fixture
def client(scripted: "ScriptedServer", make_service: MakeService) -> TrainingClient:
    """A run on the scripted server."""
    service = make_service(scripted.url, limits=HttpLimits(max_response_bytes=100_000))
    return service.create_lora_training_client("m")


@pytest.fixture
def batch() -> list[Datum]:
    """Four short texts, every token learned."""
    texts = ["the cat sat on the mat", "a dog in a fog", "red, green, blue", "one two three four five"]
    return [datum(list(text.encode())) for text in texts]


def datum(ids: list[int]) -> Datum:
    """Every token but the first is learned."""
    return Datum(
        model_input=ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={"target_tokens": ids[1:], "weights": [1.0] * (len(ids) - 1)},
    )
