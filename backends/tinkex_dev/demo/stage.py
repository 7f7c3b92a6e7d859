"""The demo's processes and their environment: a development server and a worker, each a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import IO

from backends.tinkex_dev.demo.folder import DemoFolder
from crucible.errors import BackendUnavailable

STOP_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs while the demo does."""

    server_url: str
    server_pid: int
    worker_pid: int


@contextmanager
def set_stage(folder: DemoFolder) -> Iterator[Stage]:
    """Start both processes and point this one at them; all is undone at the end.

    Whatever the user's environment says of a real service, a database or a broker is hidden meanwhile.
    """
    with _sigterm_ends(), _environment({"NSAI_WORK_HOME": str(folder.home)}):
        arguments = ["--port", "0", "--state", str(folder.server_state), "--json"]
        with _process(folder, "server", "backends.tinkex_dev", *arguments) as server:
            url = _server_url(folder, server)
            with (
                _environment(_service_variables(url)),
                _process(folder, "worker", "nsai_work.cli", "worker") as worker,
            ):
                yield Stage(url, server.pid, worker.pid)


def _service_variables(url: str) -> dict[str, str]:
    # a proxy of the user's must not come between two processes of one machine
    return {"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-demo", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
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
def _process(folder: DemoFolder, name: str, module: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with folder.log(name).open("w") as log:
        process = subprocess.Popen(  # noqa: S603 our own module, under our own interpreter
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name == "server" else log,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops them in order
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _server_url(folder: DemoFolder, server: "subprocess.Popen[str]") -> str:
    out: IO[str] | None = server.stdout
    assert out is not None
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(out.readline())["url"])
    raise BackendUnavailable(f"the development server did not start; see {folder.log('server')}")


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """SIGTERM unwinds this process as Ctrl-C does, so that its children are stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
