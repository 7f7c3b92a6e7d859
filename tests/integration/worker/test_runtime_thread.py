"""The runtime's thread across a fork."""

import os
from pathlib import Path

from nsai_work import Settings, submit
from nsai_work.client.connections import close_connections
from nsai_work.errors import StoreGone
from nsai_work.job import Priority
from nsai_work.store import WakeUp
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
