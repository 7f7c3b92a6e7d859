"""A table of all texts that users and services give: in every view they stay text, and act on nothing.

The views are all pages and their JSON twins, all commands that show jobs, and the metrics. Log lines, traces and
alerts, which leave this machine, have tests of their own.
"""

import contextlib
import html
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed
from sqlalchemy import Table, insert, update
from starlette.testclient import TestClient

from crucible.errors import InvalidRequest
from nsai_work import Settings
from nsai_work.cli import main
from nsai_work.page.pages import PAGES
from nsai_work.presentation.event_text import _FORMATTERS
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import (
    attempts,
    checkpoints,
    evaluations,
    events,
    jobs,
    rollouts,
    runs,
    specs,
    workers,
)
from tests.page.runs import HOSTS, StoredRun, add_rollouts, add_workers, reinforcement_job, training_job
from tests.rig import command
from tests.working_store import WorkingStore

ACTS = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What acts on a terminal or reorders letters."""


EVENTS = sorted(_FORMATTERS)
EVENT_TEXTS = ("message", "error", "target", "sink", "name", "path", "run_id", "missing", "metric", "reference")
"""The keys of events' data that hold texts."""


def hostile(mark: str) -> str:
    """A text that tries to act, around a mark by which it is found."""
    return f"{mark}<script>alert(1)</script>\x1b[31m\x9b5m\u202e\u2066'\"&{{{{7*7}}}}<img src=x onerror=y>\x07\x7f"


def name_of(mark: str) -> str:
    """The same, of what a name may have."""
    return f"{mark}<script>alert(1)</script>\u05e9\u05dc'\"&{{{{7*7}}}}<img src=x onerror=y>"


def write_texts(store: WorkingStore) -> dict[str, str]:
    """Write a hostile text into each field. Returns where each is seen, by its mark."""
    seen: dict[str, str] = {}

    def text(mark: str, where: str, make: Callable[[str], str] = hostile) -> str:
        seen[mark] = where
        return make(mark)

    def name(mark: str, where: str = "name") -> str:
        return text(mark, where, name_of)

    run = training_job(name("NAME1"), tags=(name("TAG1", "tag"),), tenant_id=name("TENANT1", "tenant"))
    learning = reinforcement_job(name("NAME2"))
    waiting = training_job(name("NAME3"), learning_rate=3e-4, metadata={"note": text("NOTE3", "metadata")})
    failed = command(name=name("NAME4"))
    store.submit([run, learning, waiting, failed])
    StoredRun(store, run, 90).write()
    StoredRun(store, learning, 8).write()
    add_rollouts(store, learning, 8, question=text("QUESTION2", "message"))
    add_workers(store)
    store.set_tenant_quota(name("QUOTA", "limit of a tenant"), 8)
    store.set_model_limit(name("CREDENTIAL", "limit of a credential"), 4, model=name("MODEL", "limit of a model"))
    error = stored_error(text("ERROR4", "error"))
    with store.database.transaction() as tx:

        def write(table: Table, where: object, **values: object) -> None:
            statement = update(table).where(where).values(values) if where is not None else insert(table)
            assert tx.connection.execute(statement, None if where is not None else values).rowcount

        seqs = {row.id: row.seq for row in tx.connection.execute(jobs.select())}
        seq = seqs[run.id]
        write(jobs, jobs.c.id == run.id, wait_reason=text("WAIT1", "wait reason"))
        write(jobs, jobs.c.id == failed.id, status="failed", error=error, completed_at=tx.now, started_at=tx.now)
        spec = tx.connection.execute(specs.select().where(specs.c.job_seq == seqs[waiting.id])).one().spec
        spec["payload"]["base_model"] = text("BASE3", "base model")
        write(specs, specs.c.job_seq == seqs[waiting.id], spec=spec)
        write(attempts, (attempts.c.job_seq == seq) & (attempts.c.fence == 1), failure=error)
        reference = {"backend": "tinkex", "run_id": text("RUN1", "remote run")}
        write(runs, (runs.c.job_seq == seq) & (runs.c.generation == 2), ref=reference)
        write(runs, (runs.c.job_seq == seq) & (runs.c.generation == 1), end_reason=text("END1", "end reason"))
        newest = (checkpoints.c.job_seq == seq) & (checkpoints.c.step == 80)
        write(checkpoints, newest, name=text("CHECKPOINT1", "checkpoint"), path=text("PATH1", "path"))
        metrics = {"eval.loss": 1.0, text("METRIC1", "metric"): 2.0}
        write(evaluations, (evaluations.c.job_seq == seq) & (evaluations.c.step == 80), metrics=metrics)
        own = (rollouts.c.job_seq == seqs[learning.id]) & (rollouts.c.member == 3)
        write(rollouts, own, reason=text("ROLLOUT2", "end of a rollout"))
        for number, event in enumerate(EVENTS):
            data: dict[str, object] = {key: hostile(f"{key}{number}") for key in EVENT_TEXTS}
            data |= {"reason": hostile(event), "from": "running", "attempt": 1}
            data |= {"fields": [data["reason"]], "finish_reasons": {data["reason"]: 1}}
            write(events, None, job_seq=seq, at=tx.now, name=event, data=data)
        reason = {text("BACKEND", "backend of a worker"): text("LACKS", "what a worker lacks")}
        write(
            workers,
            workers.c.id == HOSTS[0],
            host=text("HOST", "host"),
            declined=reason,
            backends={"fake": "fake", text("USES", "backend of a worker"): "a", hostile("BACKEND"): "a"},
        )
    return {**seen, "run": run.id, "learning": learning.id, "waiting": waiting.id, "failed": failed.id}


def stored_error(message: str) -> object:
    """An error with a message that no error of ours would have: the store may hold any."""
    return failure_json(InvalidRequest("x").failure().model_copy(update={"message": message}))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Callable[..., str]]:
    """Run ``nsai-work`` in this process, and return all that it writes."""
    handlers, level = logging.root.handlers[:], logging.root.level
    monkeypatch.setenv("NSAI_WORK_HOME", str(settings.home))
    monkeypatch.setenv("COLUMNS", "4000")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit):
            main()
        return out.getvalue() + err.getvalue()

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


def test_every_text_stays_text_in_every_view(
    page: TestClient, store: WorkingStore, call: Callable[..., str]
) -> None:
    """And each is seen in one of them, or the table would say nothing."""
    texts = write_texts(store)
    run, learning, waiting, failed = (texts.pop(name) for name in ("run", "learning", "waiting", "failed"))
    ids = [run, learning, waiting]
    queries = {"job": [{"id": each} for each in (*ids, failed)], "compare": [{"id": ids}, {}]}
    queries["workers"] = [{}, {"all": "true"}]
    shown: list[str] = []
    for each in PAGES:
        for query in queries.get(each.name, [{}]):
            answer = page.get(each.path, params=query)
            assert answer.status_code == 200, (each.name, answer.text)
            assert not re.search("<script>alert|<img", answer.text), each.name
            assert ">49<" not in answer.text
            assert not ACTS.search(answer.text), (each.name, ACTS.search(answer.text))
            shown.append(html.unescape(answer.text))
            twin = page.get(each.twin, params=query)
            assert twin.headers["content-type"] == "application/json"
            assert twin.headers["x-content-type-options"] == "nosniff"
            json.loads(twin.text)

    on_one = ("show", "watch", "steps", "evaluations", "checkpoints", "results", "rollouts", "plot")
    commands = [(name, job) for name in on_one for job in (*ids, failed)]
    commands += [("list",), ("compare", *ids), ("queue",), ("workers", "--all"), ("limits", "list")]
    for words in commands:
        once = words[0] == "watch"
        written = call(*words, "--timeout", "0") if once else call(*words) + call(*words, "--json")
        assert not ACTS.search(written), (words, ACTS.search(written))
        shown.append(written)

    log = page.get("/job.json", params={"id": run}).json()["log"]
    assert {*EVENTS} == {line["event"] for line in log}
    samples = [sample for family in parsed(page.get("/metrics").text) for sample in family.samples]
    assert {name_of("QUOTA"), name_of("CREDENTIAL"), name_of("MODEL")} <= {
        value for sample in samples for value in sample.labels.values()
    }
    assert {mark: where for mark, where in texts.items() if not any(mark in each for each in shown)} == {}
