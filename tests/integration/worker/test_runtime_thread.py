"""The runtime's thread: across a fork, and when it cannot start or must stop."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from nsai_work import Settings, submit
from nsai_work.client.connections import close_connections
from nsai_work.errors import StoreGone, StoreUnavailable
from nsai_work.job import Priority
from nsai_work.store import Selection, WakeUp
from nsai_work.worker import runtime_thread
from nsai_work.worker.runtime import Runtime, open_runtime
from nsai_work.worker.runtime_thread import RuntimeThread
from tests.rig import command


def test_a_forked_child_has_no_runtime_and_the_parents_goes_on(tmp_path: Path) -> None:
    """In the child wake-ups are dropped and a stop has no effect."""
    settings = Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=0.1)
    settings.make_home()
    runtime = RuntimeThread(settings)
    runtime.start()
    try:
        child = os.fork()
        if child == 0:
            try:
                runtime.wake(WakeUp(job_id="any", fence=0, priority=Priority.BATCH))
                runtime.stop()
                os._exit(0 if runtime.join(0) and runtime.failure is None else 2)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert submit(command(), settings).result(timeout=120) == {}
        assert not runtime.join(0)
    finally:
        runtime.stop()
        close_connections()


def test_health_is_readable_in_the_process(tmp_path: Path) -> None:
    """Before the start, at work, and after the end."""
    settings = Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=0.1)
    settings.make_home()
    runtime = RuntimeThread(settings)
    assert runtime.health.reason == "the worker has not started"
    runtime.start()
    assert runtime.health.ok
    runtime.stop()
    assert (runtime.failure, runtime.health.reason) == (None, "the worker has stopped")
    close_connections()


def test_a_runtime_whose_file_is_deleted_fails(tmp_path: Path) -> None:
    """``health`` and ``failure`` say why."""
    settings = Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=60)
    settings.make_home()
    runtime = RuntimeThread(settings)
    runtime.start()

    (tmp_path / "nsai-work.db").unlink()

    assert runtime.join(60)
    assert isinstance(runtime.failure, StoreGone)
    assert "was deleted" in (runtime.health.reason or "")
    close_connections()


def test_a_stop_during_the_start_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a signal that arrives while the tables are migrated."""
    settings = Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=60)
    settings.make_home()
    runtime = RuntimeThread(settings)

    async def opened(*given: Any, **options: Any) -> Runtime:
        runtime.request_stop()
        return await open_runtime(*given, **options)

    monkeypatch.setattr(runtime_thread, "open_runtime", opened)
    runtime.start()
    try:
        assert runtime.join(10)
        assert runtime.failure is None
    finally:
        runtime.stop()


def test_a_runtime_that_cannot_register_closes_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread and connections would stay as long as the process."""
    settings = Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=60)
    settings.make_home()

    async def refuse(*_: object) -> None:
        raise StoreUnavailable("away")

    async def scenario() -> Runtime:
        runtime = await open_runtime(settings, Selection(), 1, publisher=None)
        monkeypatch.setattr(runtime.store, "register", refuse)
        with pytest.raises(StoreUnavailable):
            await runtime.run()
        return runtime

    runtime = asyncio.run(scenario())

    assert runtime.store._store_async._closed
    assert runtime.watchdog._stopped.is_set()
