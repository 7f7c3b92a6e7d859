"""The queries of the page on each database, and over rows that are not as they should be."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, update
from starlette.testclient import TestClient

from nsai_work import Settings
from nsai_work.page.application import PageApp
from nsai_work.page.pages import PAGES
from nsai_work.store.schema import events, specs, steps
from tests.page.conftest import HOME
from tests.page.runs import StoredRun, add_rollouts, add_workers, reinforcement_job, training_job
from tests.rig import new_database
from tests.working_store import WorkingStore, open_working_store


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings with a new database of either kind."""
    if request.param == "sqlite":
        yield Settings(home=tmp_path)
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        yield Settings(home=tmp_path, database_url=url)


@pytest.fixture
def any_store(any_settings: Settings) -> Iterator[WorkingStore]:
    """The store in it."""
    with closing(open_working_store(any_settings.database_url)) as opened:
        yield opened


@pytest.fixture
def client(any_settings: Settings) -> Iterator[TestClient]:
    """A reader of the page over it."""
    with closing(PageApp(any_settings)) as page:
        yield TestClient(page.app, base_url=HOME)


def test_every_page_on_each_database(client: TestClient, any_store: WorkingStore) -> None:
    """With runs, of which one is longer than its drawing has points, and with workers and limits."""
    jobs = [training_job("short"), training_job("long", max_steps=7_000), training_job("waiting")]
    any_store.submit(jobs)
    StoredRun(any_store, jobs[0], 148).write()
    StoredRun(any_store, jobs[1], 6_500).write()
    learning = reinforcement_job("learning")
    any_store.submit([learning])
    add_rollouts(any_store, learning, 12)
    jobs.append(learning)
    add_workers(any_store)
    any_store.set_tenant_quota("default", 8)

    for page in PAGES:
        for job in jobs:
            query = {"id": job.id} if page.name in ("job", "compare") else {}
            assert client.get(page.path, params=query).status_code == 200, page.path
            assert client.get(page.twin, params=query).status_code == 200, page.path
    curve = client.get("/job/curve.json", params={"id": jobs[1].id}).json()
    assert (curve["width"], curve["steps"][-1], curve["total"]) == (9, 6_500, 7_000)
    assert [mark["mode"] for mark in curve["recoveries"]] == ["warm", "exact"]
    assert curve["evaluations"]["steps"][-1] == 6_500
    assert client.get("/job.json", params={"id": learning.id}).json()["rollouts"]["curve"]["steps"] == [
        *range(1, 13)
    ]
    assert "nsai_jobs_waiting" in client.get("/metrics").text
    assert len(client.get("/overview.json").json()["incidents"]) == 8


def test_a_loss_that_is_no_number(client: TestClient, any_store: WorkingStore) -> None:
    """It is left out of the curve, and breaks no page."""
    job = training_job()
    any_store.submit([job])
    run = StoredRun(any_store, job, 40)
    run.write()
    with any_store.database.transaction() as tx:
        bad = (steps.c.job_seq == run.seq) & (steps.c.step == 7)
        # SQLite stores NaN as NULL, which the column refuses
        value = float("nan") if tx.postgres else float("inf")
        tx.connection.execute(update(steps).where(bad).values(loss=value))

    curve = client.get("/job/curve.json", params={"id": job.id}).json()
    assert curve["steps"] == [step for step in range(1, 41) if step != 7]
    for path in ("/", "/job", "/compare"):
        query = {} if path == "/" else {"id": job.id}
        assert client.get(path, params=query).status_code == 200, path


@pytest.mark.parametrize("with_id", [True, False])
def test_damaged_rows_break_no_list(client: TestClient, any_store: WorkingStore, with_id: bool) -> None:
    """A job that cannot be read is shown as such, beside the others; so are events with foreign data."""
    jobs = [training_job("whole"), training_job("damaged")]
    any_store.submit(jobs)
    run = StoredRun(any_store, jobs[1], 40)
    run.write()
    spec = {"kind": 7, **({"id": jobs[1].id} if with_id else {})}
    with any_store.database.transaction() as tx:
        tx.connection.execute(update(specs).where(specs.c.job_seq == run.seq).values(spec=spec))
        rows = [{"name": name, "data": data} for name in ("step", "evaluation", "resume.warm") for data in ([], {})]
        for row in rows:
            tx.connection.execute(insert(events), {**row, "job_seq": run.seq, "at": run.now})

    assert "whole" in client.get("/jobs").text
    assert client.get("/").status_code == 200
    if with_id:
        assert client.get("/job", params={"id": jobs[1].id}).status_code == 200
        assert client.get("/compare", params={"id": [job.id for job in jobs]}).status_code == 200
