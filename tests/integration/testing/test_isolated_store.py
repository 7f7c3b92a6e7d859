"""``nsai_work.testing``: an isolated store, an inline worker, and assertions about submitted jobs."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import InvalidRequest
from nsai_work import Constraints, Job, JobStatus, Priority, RetryPolicy, Settings, submit, submit_many
from nsai_work.client.connections import job_store
from nsai_work.files.home import home_folder
from nsai_work.testing import (
    IsolatedStore,
    assert_not_submitted,
    assert_submitted,
    isolated_store,
    run_jobs,
)
from tests.rig import command


@pytest.fixture
def store() -> Iterator[IsolatedStore]:
    """An isolated store."""
    with isolated_store() as opened:
        yield opened


def test_it_replaces_the_settings_and_gives_them_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the database nor the home of the environment is touched, and both are as before afterwards."""
    outside = {
        "NSAI_WORK_DATABASE_URL": f"sqlite:///{tmp_path / 'production.db'}",
        "NSAI_WORK_HOME": str(tmp_path / "production"),
        "NSAI_WORK_CONCURRENCY": "7",
    }
    for name, value in outside.items():
        monkeypatch.setenv(name, value)
    with isolated_store() as store:
        submit(command())
        assert Settings() == store.settings
        assert home_folder() == store.home
        assert len(store.jobs()) == 1
        folder = store.home

    assert {name: value for name, value in os.environ.items() if name.startswith("NSAI_WORK_")} == outside
    assert Settings().concurrency == 7
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_it_gives_the_settings_back_after_an_error(tmp_path: Path) -> None:
    """A failing test does not spoil the next."""
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), isolated_store(tmp_path / "kept"):
        raise ZeroDivisionError

    assert dict(os.environ) == before
    assert (tmp_path / "kept").is_dir()


def test_further_settings_are_those_of_settings() -> None:
    """An unknown or invalid one is refused, not ignored."""
    with isolated_store(concurrency=3, lease_ttl_s=0.5) as store:
        assert (store.settings.concurrency, store.settings.lease_ttl_s) == (3, 0.5)
    with pytest.raises(TypeError, match="did you mean concurrency"), isolated_store(concurency=3):
        pass
    with pytest.raises(InvalidRequest, match="NSAI_WORK_CONCURRENCY"), isolated_store(concurrency=0):
        pass


def test_each_store_is_empty() -> None:
    """Also one inside another."""
    with isolated_store() as outer:
        submit(command())
        with isolated_store() as inner:
            assert inner.jobs() == []
            assert_not_submitted()
        assert_submitted(kind="tool_call")
        assert len(outer.jobs()) == 1


@pytest.mark.parametrize("function", [run_jobs, assert_submitted, assert_not_submitted])
def test_no_other_store_is_touched(function: Any) -> None:
    """Without an isolated store there is an error instead of a look into the real one."""
    with pytest.raises(RuntimeError, match="isolated_store"):
        function()
    assert not home_folder().exists()


def test_submitted_jobs_run(store: IsolatedStore) -> None:
    """In this process, without a worker; in the order of their submission in the result."""
    first = submit(command("echo", arguments={"value": 1}))
    second = submit(command("fail", arguments={"code": "invalid_request"}))

    assert [(job.id, job.status) for job in run_jobs()] == [(first.id, "succeeded"), (second.id, "failed")]
    assert first.result(timeout=0) == {"value": 1}
    assert run_jobs() == []


def test_jobs_that_become_due_run_too(store: IsolatedStore) -> None:
    """Those that wait for others, in any number of generations."""
    first = command()
    second = command(constraints={"depends_on": [first.id]})
    third = command(constraints={"depends_on": [second.id]})
    submit_many([first, second, third])

    assert {job.status for job in run_jobs()} == {JobStatus.SUCCEEDED}
    assert len(store.jobs(JobStatus.SUCCEEDED)) == 3


def test_it_runs_beside_an_event_loop(store: IsolatedStore) -> None:
    """In an async test, in a thread."""
    handle = submit(command())
    asyncio.run(asyncio.to_thread(run_jobs))

    assert handle.status() is JobStatus.SUCCEEDED


def test_a_job_that_cannot_start_is_named(store: IsolatedStore) -> None:
    """It is due, but over a limit: no endless wait."""
    job_store(store.settings).set_tenant_quota("default", 0)
    handle = submit(command())

    with pytest.raises(TimeoutError, match=handle.id):
        run_jobs()


def test_a_job_that_does_not_end_is_named(store: IsolatedStore) -> None:
    """It goes back to the queue."""
    handle = submit(command("sleep", arguments={"ms": 60_000}))

    with pytest.raises(TimeoutError, match=f"still run: {handle.id}"):
        run_jobs(timeout_s=0.5)
    assert handle.status() is JobStatus.QUEUED


def test_a_submitted_job_is_found_by_any_field(store: IsolatedStore) -> None:
    """By a part of its payload, by records and enums as by their JSON."""
    arguments = {"value": {"a": 1, "b": [1, 2]}}
    submit(command("echo", arguments=arguments, tags=["x"], priority="offline"))
    newest = submit(command("echo", arguments=arguments, owner="second"))

    assert assert_submitted(payload={"arguments": {"value": {"b": [1, 2]}}}, count=2).id == newest.id
    assert_submitted(kind="tool_call", backend="fake", tags=("x",), priority=Priority.OFFLINE)
    assert_submitted(constraints=Constraints(), retry_policy=RetryPolicy(), owner="second")
    assert_not_submitted(owner="third")
    assert_not_submitted(payload={"arguments": {"value": {"a": True}}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "tinkex"}, 'backend is "fake"'),
        ({"payload": {"command": "noop"}}, 'payload.command is "echo"'),
        ({"payload": {"arguments": {"valeu": 1}}}, "payload.arguments.valeu is missing"),
        ({"payload": {"arguments": {"value": [1]}}}, r"payload.arguments.value is \[1, 2\]"),
        ({"kind": "tool_call", "count": 2}, r"expected 2 job\(s\)"),
        ({"metadata": {"a": 1}}, "metadata.a is missing"),
    ],
)
def test_a_job_that_was_not_submitted_is_reported(store: IsolatedStore, fields: Any, message: str) -> None:
    """With the jobs that were, and the first field of each that differs."""
    handle = submit(command("echo", arguments={"value": [1, 2]}))

    with pytest.raises(AssertionError, match=message) as caught:
        assert_submitted(**fields)
    assert handle.id in str(caught.value)


def test_an_assertion_about_an_unknown_field_is_refused(store: IsolatedStore) -> None:
    """It could never fail, or never succeed."""
    with pytest.raises(TypeError, match="did you mean backend"):
        assert_submitted(backnd="fake")
    with pytest.raises(ValueError, match="assert_not_submitted"):
        assert_submitted(count=0)


def test_a_refused_job_is_not_submitted(store: IsolatedStore) -> None:
    """Submit checks jobs as it always does."""
    with pytest.raises(Exception, match="allowed are echo"):
        submit(command("unknown"))
    assert_not_submitted()


def test_a_failed_assertion_shows_jobs_in_order(store: IsolatedStore) -> None:
    """One a line, oldest first."""
    ids = [submit(command()).id for _ in range(3)]
    with pytest.raises(AssertionError) as caught:
        assert_not_submitted(kind="tool_call")

    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == ids
    assert isinstance(store.jobs()[0], Job)
