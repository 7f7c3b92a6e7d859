"""A store with runs, and the page over it in this process."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nsai_work import Settings
from nsai_work.client.connections import close_connections
from nsai_work.page.application import PageApp
from tests.page.runs import StoredRun, training_job
from tests.rig import sqlite_template
from tests.working_store import WorkingStore, open_working_store

TOKEN = "correct-horse-battery-staple"
HOME = "http://127.0.0.1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a database of this test's own."""
    (tmp_path / "home").mkdir()
    file = tmp_path / "home" / "nsai-work.db"
    file.write_bytes(sqlite_template().read_bytes())
    return Settings(home=tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Iterator[WorkingStore]:
    """The store that the page shows."""
    opened = open_working_store(settings.database_url)
    yield opened
    opened.close()
    close_connections()


@pytest.fixture
def run_id(store: WorkingStore) -> str:
    """The id of a running job that was killed and corrupted."""
    job = training_job("tides-sft-7")
    store.submit([job])
    StoredRun(store, job, 148).write()
    return job.id


@pytest.fixture
def page(settings: Settings, store: WorkingStore) -> Iterator[TestClient]:
    """A reader of the page, which has no token."""
    with _client(settings, None) as client:
        yield client


@pytest.fixture
def signed_in(settings: Settings, store: WorkingStore) -> Iterator[TestClient]:
    """A person who is signed in."""
    with _client(settings, TOKEN) as client:
        answer = client.post("/sign-in", data={"token": TOKEN}, headers={"Origin": HOME}, follow_redirects=False)
        assert answer.status_code == 303
        yield client


def form_key(text: str) -> str:
    """The key in the forms of a page."""
    found = re.search(r'name="key" value="(\w+)"', text)
    assert found is not None, text
    return found[1]


@contextmanager
def _client(settings: Settings, token: str | None) -> Iterator[TestClient]:
    application = PageApp(settings, token=token)
    try:
        yield TestClient(application.app, base_url=HOME)
    finally:
        application.close()
