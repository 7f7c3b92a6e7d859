"""The demo's processes, a development server and a worker, and their environment."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from backends.tinkex_dev.demo.folder import DemoFolder
from backends.tinkex_dev.server import DEV_KEY, DevProcess

STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """The running processes."""

    server: DevProcess
    worker_pid: int


@contextmanager
def set_stage(folder: DemoFolder, *, work_ms: float) -> Iterator[Stage]:
    """Start both processes and point this process at them; undone when the context ends.

    The user's settings for a real service, a database or a broker are removed from the environment meanwhile.
    """
    with (
        _sigterm_unwinds(),
        environment({"NSAI_WORK_HOME": str(folder.home)}),
        DevProcess(folder.server_state, "--work-ms", f"{work_ms:g}") as server,
        environment(_service_variables(server.url)),
        _worker(folder) as pid,
    ):
        yield Stage(server, pid)


def _service_variables(url: str) -> dict[str, str]:
    # a configured proxy must not intercept calls on this machine
    return {"TINKER_BASE_URL": url, "TINKER_API_KEY": DEV_KEY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables and remove the user's product settings, except home and debug; undone when the context ends."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("NSAI_WORK_", "TINKER_")) and name not in ("NSAI_WORK_HOME", "NSAI_WORK_DEBUG"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _worker(folder: DemoFolder) -> Iterator[int]:
    command = [sys.executable, "-m", "nsai_work.cli", "worker"]
    with folder.worker_log.open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Turn SIGTERM into an exception, as Ctrl-C is, so that the child processes are stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
