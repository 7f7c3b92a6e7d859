"""Alerts of jobs reach a webhook: signed, after an outage, and again after a crash."""

import asyncio
import base64
import hashlib
import hmac
import json
import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nsai_work import submit
from nsai_work.alerts.alert import Alert
from nsai_work.alerts.webhook import Webhook
from nsai_work.lifecycle import JobStatus
from nsai_work.store.maintenance.alerts import GIVEN_UP
from tests.rig import WAIT_S, Rig, WorkerProcess, command, until

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver(ThreadingHTTPServer):
    """An endpoint that answers as it is told, and keeps what it received."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.answers: list[int] = []
        self.held = threading.Event()
        self.held.set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}/hook?token=t0ken"

    def next(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The headers and the message of the next delivery, whose signature is valid."""
        headers, body = self.received.get(timeout=120)
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"k" * 32, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        return headers, json.loads(body)


class Handler(BaseHTTPRequestHandler):
    """Answers a delivery."""

    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.put(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.held.wait(30)
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running endpoint."""
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.held.set()
        server.shutdown()


@pytest.fixture
def rig(tmp_path: Path, receiver: Receiver) -> Iterator[Rig]:
    """Workers that send alerts of ended jobs."""
    made = Rig.embedded(tmp_path)
    webhook = {"url": receiver.url, "secret_variable": "HOOK_SECRET"}
    target = {"notifier": "webhook", "on": ["succeeded", "failed"], "settings": webhook}
    made.variables |= {"NSAI_WORK_NOTIFY": json.dumps({"ops": target}), "HOOK_SECRET": SECRET}
    yield made
    made.close()


def tries(worker: WorkerProcess) -> dict[str, float]:
    """The alerts that a worker tried to send, by outcome, as its metrics count them."""
    [started] = [json.loads(line) for line in worker.text().splitlines() if '"pid"' in line]
    families = text_string_to_metric_families(httpx.get(f"{started['http']}/metrics", timeout=WAIT_S).text)
    [family] = [family for family in families if family.name == "nsai_alerts"]
    return {sample.labels["outcome"]: sample.value for sample in family.samples}


def test_an_outage_delays_notices_and_loses_none(rig: Rig, receiver: Receiver) -> None:
    """A refused one comes again under the same id, before the next; a new target begins with the present."""
    assert submit(command(), rig.settings()).id
    worker = rig.start_worker("--http", "0", "--json")
    receiver.answers = [503]
    jobs = [submit(job, rig.settings()) for job in (command(), command("fail", retry_policy={"max_attempts": 1}))]
    deliveries = [receiver.next() for _ in range(3 + 1)]

    ids = [headers["webhook-id"] for headers, _ in deliveries]
    assert ids[0] == ids[1]
    assert len({*ids}) == 3
    messages = {message["data"]["job_id"]: message for _, message in deliveries}
    assert [messages[job.id]["type"] for job in jobs] == ["job.succeeded", "job.failed"]
    assert messages[jobs[1].id]["data"]["data"]["code"] == "backend_unavailable"
    until(lambda: tries(worker) == {"sent": 3, "delayed": 1, "given_up": 0}, "they are counted")
    assert worker.terminate() == 0
    assert "alert.delayed" in worker.text()
    assert "t0ken" not in worker.text()


def test_a_crash_between_the_delivery_and_its_record_repeats_it(rig: Rig, receiver: Receiver) -> None:
    """Under the same id, by the next worker."""
    worker = rig.start_worker()
    receiver.held.clear()
    submit(command(), rig.settings())
    first, _ = receiver.next()
    worker.kill()
    receiver.held.set()
    rig.start_worker()
    second, _ = receiver.next()

    assert first["webhook-id"] == second["webhook-id"]


def test_a_notice_that_is_refused_for_good_is_given_up(rig: Rig, receiver: Receiver) -> None:
    """The job says so, and the next alert is delivered."""
    worker = rig.start_worker("--http", "0", "--json")
    receiver.answers = [410]
    refused = submit(command(), rig.settings())
    receiver.next()
    until(lambda: any(event.name == GIVEN_UP for event in refused.events()), "the event")
    later = submit(command(), rig.settings())
    _, message = receiver.next()

    [event] = [event for event in refused.events() if event.name == GIVEN_UP]
    assert (event.data["target"], event.data["event"]) == ("ops", "job.succeeded")
    assert "410" in str(event.data["reason"])
    assert message["data"]["job_id"] == later.id
    assert refused.status() is JobStatus.SUCCEEDED
    until(lambda: tries(worker) == {"sent": 1, "delayed": 0, "given_up": 1}, "they are counted")


def test_any_text_can_be_sent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ASCII, with which nothing acts on a terminal that shows it."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    hostile = "<script>\x1b[31m\x9b\u202e\x00'\"&"
    noted = {"name": hostile, "job_kind": "tool_call", "backend": hostile, "tenant_id": hostile, "status": "failed"}
    place = {"id": "event-1", "kind": "failed", "event": "job.failed", "at": datetime.now(UTC), "job_id": hostile}
    alert = Alert.model_validate({**place, **noted, "data": {"message": hostile, hostile: [hostile]}})

    async def send() -> None:
        webhook = Webhook({"url": receiver.url, "secret_variable": "HOOK_SECRET"})
        await webhook.send(alert)
        await webhook.close()

    asyncio.run(send())
    headers, body = receiver.received.queue[0]
    assert body.isascii()
    assert not {*body} & {*range(32)}
    _, message = receiver.next()
    assert headers["webhook-id"] == "event-1"
    assert message["data"]["data"] == {"message": hostile, hostile: [hostile]}
    assert {message["data"][name] for name in ("name", "backend", "tenant_id", "job_id")} == {hostile}
