"""The table of waits: for each thing that a job may wait for, every view says the reason.

The views are ``show``, ``list``, ``watch``, the page, its JSON twin, and a metric. How soon each says it is
printed, since a loaded machine may be late. Over virtual time it is within five seconds: for the queue in
tests/integration/store/test_wait_reasons.py, for the service in tests/unit/worker/test_waits.py.
"""

import contextlib
import html
import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed
from starlette.testclient import TestClient

from backends.tinkex_dev.server import DevServer
from nsai_work import Job, Settings
from nsai_work.cli import main
from nsai_work.lifecycle import JobStatus
from nsai_work.page.application import PageApp
from nsai_work.worker.probes.answers import Probes
from nsai_work.worker.runtime_thread import RuntimeThread
from tests.rig import WAIT_S, Proxy, Rig, command, until
from tests.zygote import CliProcess

Metric = tuple[str, str]
Do = Callable[["Scene"], object]


@dataclass
class Scene:
    """A store, a service that a proxy cuts off, and the environment of the command line."""

    rig: Rig
    service: DevServer
    proxy: Proxy
    environment: dict[str, str]
    patch: pytest.MonkeyPatch

    def cli(self, *arguments: str) -> str:
        """Run ``nsai-work`` in this process, and return what it printed."""
        handlers, level = logging.root.handlers[:], logging.root.level
        self.patch.setattr(sys, "argv", ["nsai-work", *arguments])
        with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as exited:
            main()
        logging.root.handlers[:], logging.root.level = handlers, level
        assert exited.value.code == 0
        return output.getvalue()


@dataclass(frozen=True)
class Row:
    """A job, the reason that it shows (a pattern), and the metric that counts it, by name and label."""

    job: Callable[[], Job]
    reason: str
    metric: Metric


@dataclass(frozen=True)
class Situation:
    """What is done to the service and the store before the jobs are submitted, whether a worker runs, and whether
    its one place is taken."""

    rows: Mapping[str, Row]
    prepare: Do = lambda scene: None
    has_worker: bool = True
    is_busy: bool = False


def queued(reason: str, kind: str, **fields: Any) -> Row:
    """A row of a command that does not start."""
    return Row(lambda: command(**fields), reason, ("nsai_jobs_waiting", kind))


def asked(reason: str, name: str, label: str) -> Row:
    """A row of a prompt for the service."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": {"model": "tiny-lm", "max_tokens": 2}}
    fields = {"kind": "inference", "backend": "tinkex", "payload": {"prompt": prompt}}
    return Row(lambda: Job.parse(fields), reason, (name, label))


FAR = "2099-01-01T00:00:00+00:00"
SITUATIONS = {
    "no worker": Situation({"no worker": queued("no worker is alive", "no_worker")}, has_worker=False),
    "queue": Situation(
        {
            "no backend": queued(
                "no worker can run it: .*it has no backend 'missing'", "no_backend", backend="missing"
            ),
            "limit": queued(r"quota of tenant full is used up \(0 of 0 running\)", "limit", tenant_id="full"),
            "busy": queued("waits for a free worker", "busy", tenant_id="a"),
            "turn": queued("it is the turn of another tenant", "turn", tenant_id="b"),
            "not before": queued(
                f"not before {re.escape(FAR)}", "not_before", id="later", constraints={"not_before": FAR}
            ),
            "dependency": queued("depends on later", "dependency", constraints={"depends_on": ["later"]}),
        },
        lambda scene: scene.rig.store.set_tenant_quota("full", 0),
        is_busy=True,
    ),
    "service away": Situation(
        {"away": asked(r"\(http://127", "nsai_attempts_waiting", "away")}, lambda scene: scene.proxy.cut()
    ),
    "429": Situation(
        {"429": asked("asample answered 429", "nsai_attempts_waiting", "limit")},
        lambda scene: scene.service.fault(kind="route", route="asample", status=429, count=10_000),
    ),
    "out of credit": Situation(
        {"credit": asked("out of credit", "nsai_jobs_waiting", "credit")},
        lambda scene: scene.service.fault(kind="out_of_credit", on=True),
    ),
}


@pytest.fixture
def scene(embedded: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A store and a service of this test's own."""
    with DevServer(tmp_path / "service", seed=0) as service, contextlib.closing(Proxy(service.url)) as proxy:
        embedded.variables |= {"TINKER_BASE_URL": proxy.url, "TINKER_API_KEY": "tml-test", "COLUMNS": "400"}
        environment = embedded.environment()
        for name, text in environment.items():
            monkeypatch.setenv(name, text)
        yield Scene(embedded, service, proxy, environment, monkeypatch)


@contextmanager
def worker(settings: Settings, *, runs: bool) -> Iterator[Callable[[], str]]:
    """A worker of one place in this process. Yields what gives its metrics."""
    runtime = RuntimeThread(settings, concurrency=1)
    with contextlib.closing(Probes(runtime, settings)) as probes:
        if runs:
            runtime.start()
        try:
            yield lambda: probes.metrics().body
        finally:
            runtime.stop()


def value(text: str, metric: Metric) -> float:
    """The value of a metric with one label; 0 if it is missing."""
    samples = (sample for family in parsed(text) for sample in family.samples)
    return next((each.value for each in samples if (each.name, *each.labels.values()) == metric), 0.0)


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_view_says_why_a_job_waits(scene: Scene, name: str) -> None:
    """The page's metrics say it also while no worker is alive."""
    situation = SITUATIONS[name]
    settings = scene.rig.settings(shutdown_grace_s=0.1)
    situation.prepare(scene)
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(worker(settings, runs=situation.has_worker))
        application = PageApp(settings)
        stack.callback(application.close)
        page = stack.enter_context(TestClient(application.app, base_url="http://127.0.0.1"))
        if situation.is_busy:
            occupant = command("sleep", arguments={"ms": 600_000})
            scene.rig.store.submit([occupant])
            until(lambda: scene.rig.store.get(occupant.id).status is JobStatus.RUNNING, "the worker is busy")
        jobs = {row_name: row.job() for row_name, row in situation.rows.items()}
        # so that the start of the commands' process is not in the times
        nothing = subprocess.DEVNULL
        warm = CliProcess(["--version"], env=scene.environment, stdin=nothing, stdout=nothing, stderr=nothing)
        assert warm.wait(WAIT_S) == 0
        began, seen = time.monotonic(), {}
        scene.rig.store.submit([*jobs.values()])
        views: dict[str, Callable[[], bool]] = {}
        for row_name, row in situation.rows.items():
            of_row = _views(scene, page, metrics, jobs[row_name].id, row)
            views |= {f"{row_name}, {view}": says for view, says in of_row.items()}

        def look() -> bool:
            for view in [view for view, says in views.items() if view not in seen and says()]:
                seen[view] = time.monotonic() - began
            return len(seen) == len(views)

        for row_name, row in situation.rows.items():
            look()
            watched = stack.enter_context(_watch(scene, jobs[row_name].id))
            views[f"{row_name}, watch"] = _says(row, watched.read_text)
        until(look, "every view says why", lambda: f"these do not: {views.keys() - seen.keys()}")
    print(f"\n{name}: " + ", ".join(f"{view} {seconds:.1f} s" for view, seconds in seen.items()))  # noqa: T201


def _views(
    scene: Scene, page: TestClient, metrics: Callable[[], str], job_id: str, row: Row
) -> dict[str, Callable[[], bool]]:
    """What looks at each view of a job but ``watch``, and finds out whether it says the reason."""
    says = partial(_says, row)
    address = {"id": job_id}
    views = {
        "show": says(lambda: scene.cli("show", job_id)),
        "list": says(lambda: _line(scene.cli("list", "--json"), job_id)),
        "page": says(lambda: html.unescape(page.get("/job", params=address).text)),
        "twin": says(lambda: str(page.get("/job.json", params=address).json()["wait_reason"])),
        "metric": lambda: value(metrics(), row.metric) >= 1,
    }
    if row.metric[0] == "nsai_jobs_waiting":
        views["metric of the page"] = lambda: value(page.get("/metrics").text, row.metric) >= 1
    return views


def _says(row: Row, read: Callable[[], str]) -> Callable[[], bool]:
    return lambda: re.search(row.reason, read()) is not None


def _line(text: str, job_id: str) -> str:
    return str(next(job["wait_reason"] for job in json.loads(text) if job["id"] == job_id))


@contextmanager
def _watch(scene: Scene, job_id: str) -> Iterator[Path]:
    """Follow a job with ``watch``. Yields the file of what it prints."""
    output = scene.rig.folder / f"watch-{job_id}.txt"
    with output.open("wb") as file:
        process = CliProcess(
            ["watch", job_id],
            env=scene.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield output
    finally:
        process.kill()
        process.wait(WAIT_S)
