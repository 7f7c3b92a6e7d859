"""The HTTP server of a worker: health and metrics, also while the event loop is blocked and the store away."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parsed
from sqlalchemy import text

from nsai_work import Job, Settings
from nsai_work.store import open_store
from nsai_work.worker.probes import probe_server as module
from nsai_work.worker.probes.answers import Probes
from nsai_work.worker.probes.health import STOPPED, WorkerHealth
from nsai_work.worker.probes.probe_server import Address, ProbeResult, probe_server
from nsai_work.worker.runtime_thread import RuntimeThread
from tests import unruly
from tests.conversations import write_conversations
from tests.rig import WAIT_S, Proxy, Rig, command, new_database, until

ROOT = Path(__file__).parents[3]


def get(url: str, path: str, method: str = "GET") -> tuple[int, str, "http.client.HTTPResponse"]:
    """Make one request. Returns status, body and response."""
    place = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=WAIT_S)) as client:
        client.request(method, path)
        response = client.getresponse()
        return response.status, response.read().decode(), response


def status(url: str, path: str) -> int:
    """Return the status of a route."""
    return get(url, path)[0]


def samples(url: str) -> dict[tuple[str, ...], float]:
    """Return the metrics by name and label values in order, with prometheus_client's parser."""
    code, body, response = get(url, "/metrics")
    assert code == 200
    assert str(response.getheader("content-type")).startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parsed(body)
        for sample in family.samples
    }


@contextmanager
def worker(settings: Settings) -> Iterator[tuple[str, RuntimeThread]]:
    """Run a worker in this process, with its HTTP server, which starts before it."""
    runtime = RuntimeThread(settings)
    with (
        contextlib.closing(Probes(runtime, settings)) as probes,
        probe_server(Address.parse("0"), probes.routes) as url,
    ):
        assert status(url, "/livez") == 200
        assert get(url, "/readyz")[:2] == (503, json.dumps({
            "ok": False, "reason": "the worker has not started", "loop_late_s": 0.0
        }) + "\n")  # fmt: skip
        try:
            runtime.start()
            yield url, runtime
        finally:
            runtime.stop()
        assert status(url, "/readyz") == 503
        assert json.loads(get(url, "/livez")[1])["reason"] == STOPPED.reason


def test_a_worker_counts_what_it_does(embedded: Rig, tmp_path: Path) -> None:
    """Jobs, attempts, times and steps, as Prometheus reads them; the limits and the age of the oldest job."""
    settings = embedded.settings()
    store = embedded.store
    store.set_tenant_quota("acme", 4)
    store.set_model_limit("fake", 0, model="none")
    done, failed = command(), command("fail", retry_policy={"max_attempts": 1}, tenant_id="acme")
    training = Job.parse({
        "kind": "training_step", "backend": "fake",
        "payload": {
            "base_model": "tiny-lm", "data": {"path": str(write_conversations(tmp_path / "data.jsonl", 8))},
            "lora": {"rank": 2}, "optimizer": {"learning_rate": 0.01}, "batch_size": 4, "max_steps": 3,
        },
    })  # fmt: skip
    held = command(backend="missing", priority="offline")
    with worker(settings) as (url, _):
        code, body, _ = get(url, "/livez")
        assert (code, json.loads(body)) == (200, {"ok": True, "reason": None, "loop_late_s": ANY})
        assert status(url, "/readyz") == 200
        store.submit([done, failed, training, held])
        ids = [done.id, failed.id, training.id]
        until(lambda: all(store.get(job_id).status.ended for job_id in ids), "the jobs ended")
        counted = until(
            lambda: (
                found if (found := samples(url)).get(("nsai_jobs", "fake", "training_step", "succeeded")) else {}
            ),
            "the figures are as new as the jobs",
        )
        types = {family.name: family.type for family in parsed(get(url, "/metrics")[1])}

    assert counted["nsai_jobs", "fake", "tool_call", "succeeded"] == 1
    assert counted["nsai_jobs", "fake", "tool_call", "failed"] == 1
    assert counted["nsai_jobs", "missing", "tool_call", "queued"] == 1
    assert counted["nsai_job_oldest_age_seconds", "offline"] > 0
    assert counted["nsai_job_oldest_age_seconds", "batch"] == 0
    assert counted["nsai_limit_utilization_ratio", "*", "acme", "tenant"] == 0
    assert counted["nsai_limit_utilization_ratio", "none", "fake", "credential"] == 1
    assert counted["nsai_attempts_total", "succeeded"] == 2
    assert counted["nsai_attempts_total", "failed"] == 1
    assert counted["nsai_attempts_total", "lost"] == 0
    assert counted["nsai_job_queue_seconds_count", "fake", "tool_call"] == 2
    assert counted["nsai_job_run_seconds_count", "fake", "training_step"] == 1
    steps = [counted["nsai_training_steps_total", kind] for kind in ("new", "replayed", "superseded")]
    assert steps == [3, 0, 0]
    resumes = ("warm", "restored", "restarted", "exact", "cold")
    assert [counted["nsai_takeovers_total", how] for how in resumes] == [0] * 5
    assert counted[("nsai_store_up",)] == 1
    assert ("nsai_loop_lag_seconds",) in counted
    assert (counted["nsai_workers", "alive"], counted["nsai_workers", "absent"]) == (1, 0)
    assert counted[("nsai_blob_bytes",)] == 0
    assert 0 < counted[("nsai_disk_free_ratio",)] <= 1
    assert [counted["nsai_alerts_total", outcome] for outcome in ("sent", "delayed", "given_up")] == [0] * 3
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE)
    assert {name.removesuffix("_total"): type_ for name, type_ in rows} == types


def test_a_late_loop_is_not_alive_until_it_turns(embedded: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocked for half a lease, here by the test: both probes answer meanwhile, and are good again afterwards."""
    with worker(embedded.settings(lease_ttl_s=2.0)) as (url, runtime):
        release = threading.Event()
        loop = runtime._loop
        assert loop is not None
        loop.call_soon_threadsafe(release.wait, WAIT_S)
        try:
            until(lambda: status(url, "/livez") == 503, "the blocked loop is seen")
            assert "has not turned" in json.loads(get(url, "/livez")[1])["reason"]
            assert status(url, "/readyz") == 503
            assert samples(url)[("nsai_loop_lag_seconds",)] >= 1.0
        finally:
            release.set()
        until(lambda: status(url, "/livez") == 200, "it is alive again")
        until(lambda: status(url, "/readyz") == 200, "it is ready again")
        runtime.request_stop()
        assert status(url, "/readyz") == 503


@pytest.mark.postgres
def test_a_worker_without_its_database_is_not_ready_until_it_is_back(postgres_url: str, tmp_path: Path) -> None:
    """It stays alive; its metrics are those of the process meanwhile, and say that the store is away."""
    with new_database(postgres_url) as database_url, contextlib.closing(Proxy(database_url)) as proxy:
        rig = Rig(tmp_path, proxy.url, f"spool://localhost{tmp_path}/spool")
        with worker(rig.settings(store_timeout_s=2.0)) as (url, _):
            until(lambda: status(url, "/readyz") == 200, "it is ready")
            proxy.cut()
            until(lambda: status(url, "/readyz") == 503, "the outage is seen")
            assert status(url, "/livez") == 200
            until(lambda: samples(url)[("nsai_store_up",)] == 0, "the metric shows it")
            proxy.open()
            until(lambda: status(url, "/readyz") == 200, "it is ready again")
            until(lambda: samples(url)[("nsai_store_up",)] == 1, "the metric shows it")


def test_tables_of_another_version_are_not_ready(embedded: Rig) -> None:
    """As after a migration by a newer worker."""
    settings = embedded.settings()
    runtime: Any = SimpleNamespace(health=WorkerHealth(ok=True), stopping=False, loop_lag_s=0.0)
    with (
        contextlib.closing(open_store(settings.database_url)) as store,
        contextlib.closing(Probes(runtime, settings)) as probes,
    ):
        store.ping()
        assert probes.readyz().status == 200
        set_version = text("UPDATE nsai_alembic_version SET version_num = '9999'")
        store.database.run(lambda tx: tx.connection.execute(set_version))
        answer = until(lambda: found if (found := probes.readyz()).status == 503 else None, "it is seen")
    assert "of version 9999" in json.loads(answer.body)["reason"]


def test_metrics_without_the_extra_name_the_pip_line(embedded: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else of the worker needs it."""
    monkeypatch.setattr("nsai_work.extras._is_installed", lambda package: package != "prometheus_client")
    runtime: Any = SimpleNamespace(health=WorkerHealth(ok=True), stopping=False, loop_lag_s=0.0)
    with contextlib.closing(Probes(runtime, embedded.settings())) as probes:
        answer = probes.metrics()
    assert answer.status == 501
    assert 'pip install "nsai-work[metrics]"' in answer.body


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """A server with one route and one that fails."""

    def broken() -> ProbeResult:
        raise ZeroDivisionError("secret")

    with probe_server(
        Address("127.0.0.1", 0), {"/ok": lambda: ProbeResult(module.HTTPStatus.OK, "yes\n"), "/no": broken}
    ) as url:
        yield url


def test_the_health_check_of_the_compose_file_asks_livez() -> None:
    """Its own command, on the port of a server that is alive, and on one that is not."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]
    _, _, _, code = service["healthcheck"]["test"]
    assert service["command"] == ["worker", "--http", "127.0.0.1:9200"]
    answers = [ProbeResult(module.HTTPStatus.OK, ""), ProbeResult(module.HTTPStatus.SERVICE_UNAVAILABLE, "")]
    with probe_server(Address("127.0.0.1", 0), {"/livez": lambda: answers.pop(0)}) as url:
        code = code.replace(":9200", f":{urlsplit(url).port}")
        exec(code)
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            exec(code)
        caught.value.close()


def exchange(url: str, data: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    place = urlsplit(url)
    received = b""
    with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=WAIT_S) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                received += part
    return received


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /ok?x=<script> HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /no HTTP/1.0\r\n\r\n", b"500"),
        (b"GET /<script> HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /ok/../../etc/passwd HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /ok?" + b"x" * 3_000 + b" HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /ok HTTP/1.0\r\nContent-Length: 100000000000\r\n\r\n", b"405"),
        (b"DELETE /ok HTTP/1.0\r\n\r\n", b"405"),
        (b"EXPLODE /ok HTTP/1.0\r\n\r\n", b"501"),
        (b"GET /ok HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /ok HTTP/x\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70_000, b"414"),
        (b"GET /ok HTTP/1.0\r\nA: " + b"x" * 70_000, b"431"),
        (b"GET /ok HTTP/1.0\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
    ],
    ids=lambda value: value[:24].decode("latin1") if isinstance(value, bytes) else "",
)
def test_a_hostile_request_is_refused(plain: str, request_: bytes, expected: bytes) -> None:
    """Without echoing it as a page, and without an effect on the next one."""
    answer = exchange(plain, request_)
    assert expected in answer.split(b"\r\n")[0] or (not answer and expected in (b"414", b"431"))
    assert b"<script>" not in answer
    assert b"secret" not in answer
    assert get(plain, "/ok")[:2] == (200, "yes\n")


def test_a_head_request_has_no_body(plain: str) -> None:
    """And says how long it would be."""
    code, body, response = get(plain, "/ok", "HEAD")
    assert (code, body, response.getheader("content-length")) == (200, "", "4")


def test_connections_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that say nothing, or drip, hold their places for a limited time."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(module, "MAX_CONNECTION_S", 0.3)
    with probe_server(Address("127.0.0.1", 0), {"/ok": lambda: ProbeResult(module.HTTPStatus.OK, "yes\n")}) as url:
        place = urlsplit(url)
        slow = [socket.create_connection(("127.0.0.1", int(place.port or 0)), timeout=WAIT_S) for _ in range(2)]
        for client in slow:
            client.sendall(b"GET /o")
        until(lambda: exchange(url, b"GET /ok HTTP/1.0\r\n\r\n") != b"" or True, "a third connection is refused")
        deadline = time.monotonic() + WAIT_S
        for client in slow:
            assert client.recv(100) == b"", "it is closed"
            client.close()
        while b"200" not in exchange(url, b"GET /ok HTTP/1.0\r\n\r\n"):
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("given", "parsed_"),
    [
        ("9200", ("127.0.0.1", 9200)),
        (":9200", ("127.0.0.1", 9200)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9200", ("::1", 9200)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_parsed(given: str, parsed_: tuple[str, int]) -> None:
    """A port alone is on loopback."""
    assert Address.parse(given) == Address(*parsed_)


@pytest.mark.parametrize(
    "given", ["", ":", "x", "65536", "-1", "1.5", "::1:80", "a b:80", "http://x:80", "٣", "x:"]
)
def test_another_form_of_address_is_refused(given: str) -> None:
    """The error names the option."""
    with pytest.raises(module.InvalidRequest, match="--http"):
        Address.parse(given)


def test_a_port_in_use_is_refused(embedded: Rig, plain: str) -> None:
    """By the command, before the worker starts; and the host that does not exist."""
    port = urlsplit(plain).port
    for address in (f"127.0.0.1:{port}", "192.0.2.1:0"):
        with (
            pytest.raises(module.InvalidRequest, match="cannot listen there"),
            probe_server(Address.parse(address), {}),
        ):
            pass


def test_the_command_serves_its_probes(embedded: Rig, tmp_path: Path) -> None:
    """In a process of its own: the ready line has the URL, and the address is loopback's."""
    embedded.variables |= unruly.install(tmp_path / "plug-in")
    process = embedded.start_worker("--http", "0", "--json")
    lines = until(lambda: [line for line in process.text().splitlines() if '"pid"' in line], "it is ready")
    ready = json.loads(lines[0])
    assert urlsplit(ready["http"]).hostname == "127.0.0.1"
    assert [status(ready["http"], path) for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]
    assert process.terminate() == 0
