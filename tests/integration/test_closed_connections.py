"""Whenever a request is cancelled or its client closed, no connection stays open once the client is closed."""

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import httpx
import pytest

from backends.litellm_backend.server_check import check_server
from backends.openai import backend as openai_module
from backends.openai.backend import OpenAIBackend
from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.queue_reporter import QueueReporter
from backends.tinkex.client.requests.result_poll import Decoding, PollTarget, ResultPoll
from backends.tinkex.errors import ClientClosed
from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.client_pool import ClientPool
from backends.tinkex.wire.transport import HttpRequest, HttpTransport
from crucible import Prompt
from crucible.errors import CrucibleError
from nsai_work.alerts.alert import Alert, AlertKind
from nsai_work.alerts.webhook import Webhook

TIMEOUT_S = 20
MAX_TURNS = 400
PROMPT = {"messages": [{"role": "user", "content": "a"}], "options": {"model": "m"}}


@dataclass
class Client:
    """A client of a server: one request of it, and its end."""

    request: Callable[[], Awaitable[object]]
    close: Callable[[], Awaitable[None]]
    open: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0))


def transport(address: str) -> Client:
    made = HttpTransport(Endpoint(address, None))
    return Client(lambda: made.send(HttpRequest("GET", "/")), made.aclose)


def unpooled(address: str) -> Client:
    made = HttpTransport(Endpoint(address, None))
    return Client(lambda: made.send(HttpRequest("GET", "/", repeatable=False)), made.aclose)


def elsewhere(address: str) -> Client:
    pool = ClientPool(Endpoint("http://127.0.0.1:1", None))

    async def request() -> None:
        with pool.lease_for(address) as client:
            await client.get(address)

    return Client(request, pool.aclose)


def openai(address: str) -> Client:
    backend = OpenAIBackend({"base_url": f"{address}/v1", "api_key": "k", "models": ["m"], "max_retries": 0})

    async def request() -> None:
        await backend.complete(Prompt.model_validate(PROMPT))

    async def open_warm() -> None:
        await backend.open()
        await backend.health_check()  # the library does part of its first request in a thread

    return Client(request, backend.close, open_warm)


def webhook(address: str) -> Client:
    made = Webhook({"url": address})
    alert = Alert(
        id="event-1",
        kind=AlertKind.FAILED,
        event="job.failed",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        job_id="j",
        name=None,
        job_kind="inference",
        backend="fake",
        tenant_id="t",
        status="failed",
        data={},
    )
    return Client(lambda: made.send(alert), made.close)


def server_check(address: str) -> Client:
    async def close() -> None:
        return

    return Client(lambda: check_server(address, None), close)


CLIENTS = [transport, unpooled, elsewhere, openai, webhook]
CASES = [*((client, act) for client in CLIENTS for act in ("cancel", "close")), (server_check, "cancel")]


class Server(asyncio.Protocol):
    """A connection of a server that answers every request alike."""

    open: ClassVar[set["Server"]] = set()
    accepted = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        Server.accepted += 1
        Server.open.add(self)

    def data_received(self, data: bytes) -> None:
        if data.endswith((b"\r\n\r\n", b"}")):
            end = b"\r\nConnection: close" if b"/models" in data else b""
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2" + end + b"\r\n\r\n{}")

    def connection_lost(self, exc: Exception | None) -> None:
        Server.open.discard(self)


def anonymous(protocol: int) -> ssl.SSLContext:
    """TLS without certificates."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


@pytest.fixture
def _nothing_is_collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: anonymous(ssl.PROTOCOL_TLS_CLIENT))
    openai_module._tls.cache_clear()
    gc.disable()
    yield
    gc.enable()
    openai_module._tls.cache_clear()


@pytest.mark.usefixtures("_nothing_is_collected")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("client_of", "act"), CASES)
def test_no_connection_is_left(client_of: Callable[[str], Client], scheme: str, act: str) -> None:
    """Whatever turn of the event loop the act falls in, from the first of the request until it ends before."""
    asyncio.run(every_turn(client_of, scheme, act))


@pytest.mark.usefixtures("_nothing_is_collected")
def test_nothing_is_sent_after_the_end() -> None:
    """What still polls in the background would make connections that nobody closes."""

    async def scenario() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None)
            for sent_before in (True, False):
                closed = HttpTransport(endpoint)
                if sent_before:
                    await closed.send(HttpRequest("GET", "/"))
                await closed.aclose()
                Server.accepted = 0
                reporter = QueueReporter(None, closed.clock, "run")
                target = PollTarget("id", "forward", "Forward", Decoding(from_json=lambda value: value), reporter)
                with pytest.raises(ClientClosed):
                    await ResultPoll(Connection(closed), target).result()
                assert Server.accepted == 0

    asyncio.run(scenario())


async def every_turn(client_of: Callable[[str], Client], scheme: str, act: str) -> None:
    tls = anonymous(ssl.PROTOCOL_TLS_SERVER) if scheme == "https" else None
    Server.accepted = 0
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=tls)
    async with server:
        address = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        outcomes = [await one_turn(client_of(address), act, turn) for turn in range(1, 5)]
        while outcomes[-4:] != ["answered"] * 4:
            assert len(outcomes) < MAX_TURNS
            outcomes.append(await one_turn(client_of(address), act, len(outcomes) + 1))
    assert Server.accepted > 4, "requests did reach the server"


async def one_turn(client: Client, act: str, turn: int) -> str:
    """Cancel a request, or close its client, at this turn of the event loop. Returns how the request ended."""
    await client.open()
    request = asyncio.ensure_future(client.request())
    for _ in range(turn):
        await asyncio.sleep(0)
    in_time = not request.done()
    if act == "close":
        await client.close()
    else:
        request.cancel()
    with contextlib.suppress(asyncio.CancelledError, CrucibleError, httpx.HTTPError):
        await asyncio.wait_for(request, TIMEOUT_S)
    if act != "close":
        await client.close()
    deadline = asyncio.get_running_loop().time() + TIMEOUT_S
    while Server.open:
        assert asyncio.get_running_loop().time() < deadline, f"a connection is left after {act} at turn {turn}"
        await asyncio.sleep(0)
    return "ended" if in_time else "answered"
