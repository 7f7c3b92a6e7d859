"""What a chat server refuses before a backend sees it, and what it ends when its client is gone."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from backends.fake import FakeBackend
from crucible import Completion, Prompt
from crucible.stream import StartEvent, StreamEvent
from nsai_work.chat_server import access, app
from tests.integration.chat_server.conftest import ASKED, serving

WAIT_S = 30
BODY = {"model": "tiny-lm", "messages": ASKED, "max_tokens": 3}
CHAT = "/chat/completions"


@pytest.fixture(scope="module")
def fake_url() -> Iterator[str]:
    """The URL of a chat server over the fake backend, which needs no other server."""
    with serving("fake", {}) as url:
        yield url


@pytest.fixture
def http(fake_url: str) -> Iterator[httpx.Client]:
    """A client that is not made for this API."""
    with httpx.Client(base_url=fake_url) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, which has all of its fields."""
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_it_answers_over_any_backend(http: httpx.Client) -> None:
    """Whole and streamed, under the backend's own names."""
    names = [model["id"] for model in http.get("/models").json()["data"]]
    assert "tiny-lm" in names
    whole = http.post(CHAT, json=BODY).json()
    lines = http.post(CHAT, json={**BODY, "stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]

    assert lines[-2:] == ["data: [DONE]", ""]
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "text"),
    [
        (b"{", "application/json", 400, "not JSON"),
        (b"[]", "application/json", 400, "must be a JSON object"),
        (b"\xff\xfe", "application/json", 400, "not JSON"),
        (b'{"temperature": NaN}', "application/json", 400, "NaN is no JSON"),
        (b'{"n": 1, "n": 2}', "application/json", 400, "body: has the field 'n' twice"),
        (json.dumps({**BODY, "n": True}).encode(), "application/json", 400, "n: True is not allowed"),
        (json.dumps({**BODY, "temperature": "1"}).encode(), "application/json", 400, "temperature: '1' is not"),
        (b"[" * 200_000, "application/json", 400, "not JSON"),
        (json.dumps(BODY).encode(), "text/plain", 415, "must be application/json"),
        (b"{}", "application/json", 400, "model"),
        (json.dumps({**BODY, "messages": [{"role": "user"}]}).encode(), "application/json", 400, "needs content"),
        (json.dumps({**BODY, "messages": ["Hi"]}).encode(), "application/json", 400, "messages[0]"),
        (json.dumps({**BODY, "functions": []}).encode(), "application/json", 400, "unknown field"),
        (json.dumps({**BODY, "user": "u" * 2_000}).encode(), "application/json", 400, "user"),
        (json.dumps({**BODY, "model": "other"}).encode(), "application/json", 404, "other"),
    ],
)
def test_a_bad_body_is_refused(http: httpx.Client, content: bytes, kind: str, status: int, text: str) -> None:
    """In the API's form, with what is wrong."""
    response = http.post(CHAT, content=content, headers={"Content-Type": kind})

    assert response.status_code == status
    assert text in error_of(response)["message"]


def test_the_user_of_a_request_is_in_the_log(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the id of the answer, by which it is found."""
    logged: list[dict[str, Any]] = []

    class Log:
        def info(self, name: str, **fields: Any) -> None:
            logged.append({"name": name, **fields})

    monkeypatch.setattr(app, "log", Log())
    answer = http.post(CHAT, json={**BODY, "user": "me"}).json()
    http.post(CHAT, json=BODY)
    named = {"request_id": answer["id"], "model": "tiny-lm", "user": "me"}
    assert logged == [{"name": "chat_server.request", **named}]


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in chunks"])
def test_a_long_body_is_refused(http: httpx.Client, monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    """Once it is longer than the limit; one of that length is read."""
    body = json.dumps(BODY).encode()
    monkeypatch.setattr(app, "MAX_BODY_BYTES", len(body))
    headers = {"Content-Type": "application/json"}

    assert http.post(CHAT, content=body if declared else iter([body]), headers=headers).status_code == 200
    body += b" "
    response = http.post(CHAT, content=body if declared else iter([body]), headers=headers)
    assert (response.status_code, error_of(response)["param"]) == (413, None)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8765"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:1"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    """By their own name, or by a name of theirs for this machine."""
    response = http.get("/models", headers=headers)

    assert response.status_code == status
    if status == 403:
        assert error_of(response)["code"] == "forbidden"
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(("method", "path", "status"), [("GET", CHAT, 405), ("POST", "/embeddings", 404)])
def test_an_unknown_route_lists_those_there_are(http: httpx.Client, method: str, path: str, status: int) -> None:
    """In the API's form."""
    response = http.request(method, path)

    assert response.status_code == status
    assert "POST /v1/chat/completions" in error_of(response)["message"]


class EndlessBackend(FakeBackend):
    """Begins every answer, and ends none."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.ended = threading.Semaphore(0), threading.Semaphore(0)

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        try:
            self.begun.release()
            yield StartEvent(seq=0)
            await asyncio.Event().wait()
        finally:
            self.ended.release()

    async def complete(self, prompt: Prompt) -> Completion:
        try:
            self.begun.release()
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            self.ended.release()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> EndlessBackend:
    """The backend of a chat server that the test starts."""
    backend = EndlessBackend()
    monkeypatch.setattr("nsai_work.chat_server.server.load_backend", lambda name: backend)
    return backend


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_goes_ends_its_answer(endless: EndlessBackend, stream: bool) -> None:
    """The backend's work for it is cancelled."""
    with serving("fake", {}) as url, httpx.Client(base_url=url) as client:
        sender = threading.Thread(target=_send_and_go, args=(client, {**BODY, "stream": stream}, endless.begun))
        sender.start()
        assert endless.ended.acquire(timeout=WAIT_S)
        sender.join()


def _send_and_go(client: httpx.Client, body: dict[str, Any], begun: threading.Semaphore) -> None:
    with pytest.raises(httpx.TimeoutException):
        client.post(CHAT, json=body, timeout=httpx.Timeout(WAIT_S, read=0.5))
    assert begun.acquire(timeout=WAIT_S)


def test_calls_beyond_the_limit_are_refused(endless: EndlessBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the status that clients wait at; the end of the server ends the others."""
    monkeypatch.setattr(access, "MAX_OPEN", 2)
    threads = []
    with serving("fake", {}) as url, httpx.Client(base_url=url) as client:
        for _ in range(2):
            threads.append(threading.Thread(target=_send_until_the_end, args=(url,)))
            threads[-1].start()
            assert endless.begun.acquire(timeout=WAIT_S)
        refused = client.get("/models")
    for thread in threads:
        thread.join()

    assert (refused.status_code, error_of(refused)["type"]) == (429, "rate_limit_error")
    assert refused.headers["retry-after"] == "1"


def _send_until_the_end(url: str) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(url + CHAT, json=BODY, timeout=WAIT_S)


def test_a_failure_inside_a_stream_ends_it(endless: EndlessBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error as the last event, in the place of [DONE]; what it says is the log's alone."""

    async def broken(prompt: Prompt) -> AsyncIterator[StreamEvent]:
        yield StartEvent(seq=0)
        raise ZeroDivisionError("a secret thought")

    monkeypatch.setattr(endless, "stream", broken)
    with serving("fake", {}) as url:
        lines = httpx.post(url + CHAT, json={**BODY, "stream": True}, timeout=WAIT_S).text.split("\n\n")

    assert lines[1:] == [""]
    assert json.loads(lines[0].removeprefix("data: "))["error"]["code"] == "plugin_error"
