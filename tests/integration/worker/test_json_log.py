"""The log of a worker in JSON: each line of a real worker's output is one object, whoever wrote it."""

import json
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import unruly
from tests.rig import WAIT_S, Rig, WorkerProcess, command, until

CELERY = ("celery", "-A", "nsai_work.worker.celery_app:app", "worker")
TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def lines_of(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Parse every line of the output. Each has the time in UTC, a level, a logger and an event."""
    events: list[dict[str, Any]] = [json.loads(line) for line in worker.text().splitlines()]
    for event in events:
        assert event["time"].endswith("Z")
        assert datetime.fromisoformat(event["time"]).utcoffset() == timedelta(0)
        assert event["level"] in ("debug", "info", "warning", "error", "critical")
        assert event["logger"]
        assert event["event"]
    return events


def named(events: list[dict[str, Any]], **fields: str) -> dict[str, Any]:
    """Return the first event with these fields."""
    found = [event for event in events if fields.items() <= event.items()]
    assert found, (fields, events)
    return found[0]


def test_each_line_is_an_object(embedded: Rig, tmp_path: Path) -> None:
    """Events, foreign loggers, tracebacks, warnings, an error of a thread, a stalled worker's last words."""
    embedded.variables |= unruly.install(tmp_path / "plug-in") | {"NSAI_WORK_CREDENTIAL": "misspelled"}
    worker = embedded.start_worker(log_format="json", lease_ttl_s=2)
    once = {"max_attempts": 1}
    noise = command("noise", backend="unruly", retry_policy=once).model_copy(update=TRACE)
    block = command("block", backend="unruly", arguments={"s": 600, "path": str(tmp_path / "blocked")})
    embedded.store.submit([noise])
    until(lambda: embedded.handle(noise.id).status().ended, "the noise is over", worker.text)
    embedded.store.submit([block])
    assert worker.process.wait(WAIT_S) == 1

    first, *rest = worker.text().splitlines()
    assert "NSAI_WORK_CREDENTIALS" in json.loads(first)["warning"]
    worker.log.write_text("\n".join(rest))
    events = lines_of(worker)
    of_job = {"job_id": noise.id, "trace_id": TRACE["trace_id"]}
    for name in ("celery.worker", "kombu.connection", "httpx", "uvicorn.error", "some.library"):
        event = named(events, logger=name, level="warning", event=f"two\nlines of {name}", **of_job)
        assert f"ValueError: of {name}\nin two lines" in event["exception"]
        assert "_make_noise" in event["stack"]
    named(events, logger="some.library", event="%d arguments ('bad',)")
    assert "look out" in named(events, logger="py.warnings")["event"]
    assert "ZeroDivisionError" in named(events, logger="python", level="critical")["exception"]
    assert "second line" in named(events, event="job.unexpected_error", level="error", **of_job)["exception"]
    assert "queued_s" in named(events, event="job.failed", level="warning", **of_job)
    assert "has not turned for 2.0 s" in named(events, event="worker.ended", level="critical")["reason"]


def test_celerys_command_logs_json_too(embedded: Rig) -> None:
    """Its own lines as well; only its banner, on stdout, is text."""
    arguments = [*CELERY, "--pool", "threads", "--loglevel", "INFO"]
    log = embedded.folder / "celery.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=embedded.environment(log_format="json"),
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    worker = WorkerProcess(process, log)
    embedded.workers.append(worker)
    until(lambda: "worker.started" in worker.text() or process.poll() is not None, "it runs", worker.text)
    worker.signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert {"worker.started", "worker.stopped"} <= {event["event"] for event in lines_of(worker)}


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_invalid_setting_is_reported_in_the_form_of_the_log(embedded: Rig, form: str) -> None:
    """Before there is a log."""
    embedded.variables["NSAI_WORK_CONCURRENCY"] = "none"
    worker = embedded.start_worker(ready=False, log_format=form)
    assert worker.process.wait(WAIT_S) == 2
    (line, *_) = worker.text().splitlines()
    message = json.loads(line)["error"]["message"] if form == "json" else line
    assert "NSAI_WORK_CONCURRENCY" in message
