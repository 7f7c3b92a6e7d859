"""Lookup of jobs by parts of their ids."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crucible.errors import InvalidRequest
from nsai_work import Job
from nsai_work.cli.job_lookup import find_job
from nsai_work.errors import JobNotFound
from nsai_work.identifiers import new_job_id
from nsai_work.store import Store, open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with two jobs of the same minute and a job of a year later."""
    store = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    ids = [new_job_id(NOW + timedelta(days=days)) for days in (0, 0, 365)]
    payload = {"command": "noop"}
    store.submit([Job(id=job_id, kind="backend_command", backend="fake", payload=payload) for job_id in ids])
    yield store
    store.close()


def test_a_unique_prefix_or_suffix_matches(store: Store) -> None:
    """A job is found by its whole id, a suffix, or a prefix that no other job has."""
    for job in store.list_jobs():
        assert find_job(store, job.id).id == job.id
        assert find_job(store, job.id[-12:]).id == job.id
    newest = store.list_jobs()[0]
    assert find_job(store, newest.id[:10]).id == newest.id


def test_several_matches_are_rejected_with_their_ids(store: Store) -> None:
    """The message lists the ids that match."""
    first, second = (job.id for job in store.list_jobs()[1:])

    with pytest.raises(InvalidRequest, match="matches 2 jobs") as rejected:
        find_job(store, first[:10])

    assert first in str(rejected.value)
    assert second in str(rejected.value)


@pytest.mark.parametrize("text", ["", "0", "019", "ffffffff", "%", "01900000-0000-7000-8000-000000000000"])
def test_no_match_is_not_found(store: Store, text: str) -> None:
    """A part that is too short never matches: a typing mistake must not affect another job."""
    with pytest.raises(JobNotFound) as rejected:
        find_job(store, text)
    assert ("at least 4 characters" in str(rejected.value)) == (len(text) < 4)
