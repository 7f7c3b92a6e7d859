"""A batch whose worker is killed is completed by another: no answered prompt is asked again, and none is lost."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nsai_work import Job, submit
from tests.rig import Rig, until

PROMPTS, ANSWERED = 24, 9


class Service(ThreadingHTTPServer):
    """An OpenAI-compatible service that echoes prompts: the first ``ANSWERED`` at once, others once ``open``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.open = threading.Event()
        self.lock = threading.Lock()

    def answer(self, prompt: str) -> str:
        """The answer to a prompt."""
        with self.lock:
            self.asked[prompt] += 1
            is_first = len(self.asked) <= ANSWERED
        if not is_first:
            self.open.wait(60)
        return f"Echo of {prompt}"


class Handler(BaseHTTPRequestHandler):
    """Its routes."""

    server: Service

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """The list of models."""
        self._send({"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        """A completion."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": self.server.answer(body["messages"][0]["content"])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        self._send({**answer, "choices": [choice], "usage": usage})

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        try:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            """The client was killed."""


@pytest.fixture
def service() -> Iterator[Service]:
    """A running service."""
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join(10)


def test_a_killed_batch_is_completed_by_another_worker(
    embedded: Rig, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt is answered once, in order; what was written before the kill is not paid for again."""
    for name, value in {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{service.server_port}/v1",
        "OPENAI_API_KEY": "sk-0123456789",
    }.items():
        embedded.variables[name] = value
        monkeypatch.setenv(name, value)
    prompts = [f"Prompt {number}" for number in range(PROMPTS)]
    source, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": text, "id": text, "options": {"model": "m"}}) + "\n" for text in prompts)
    )
    payload = {"input": {"path": str(source)}, "output": str(output), "concurrency": 4}
    handle = submit(Job.parse({"kind": "inference", "backend": "openai", "payload": payload}), embedded.settings())

    def written() -> list[str]:
        lines = output.read_bytes().splitlines(keepends=True) if output.exists() else []
        return [json.loads(line)["id"] for line in lines if line.endswith(b"\n")]

    first = embedded.start_worker()
    until(lambda: len(written()) == ANSWERED and len(service.asked) == ANSWERED + 4, "it is under way", first.text)
    first.kill()
    before = written()
    service.open.set()
    embedded.start_worker()
    result = handle.result(timeout=60)

    assert (result["rows"], result["succeeded"], result["failed"]) == (PROMPTS, PROMPTS, 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == prompts
    texts = [row["completion"]["choices"][0]["message"]["content"] for row in rows]
    assert texts == [f"Echo of {text}" for text in prompts]
    assert {text: service.asked[text] for text in before} == dict.fromkeys(before, 1)
    assert max(service.asked.values()) <= 2
    assert (result["prompt_tokens"], result["completion_tokens"]) == (3 * PROMPTS, 2 * PROMPTS)
