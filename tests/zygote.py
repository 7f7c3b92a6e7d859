"""Processes of ``nsai-work`` that start within milliseconds: forked from a process that has imported it already.

``CliProcess`` is a ``subprocess.Popen`` of ``python -m nsai_work.cli`` with files and an environment of its own,
``ScriptProcess`` one of a script that uses it. Nothing is shared but the imports and what follows from them alone:
connections, files and threads are opened after the fork. Where there is no subreaper as in Linux, they are plain
``Popen``.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLI = ("-m", "nsai_work.cli")
PRELOADED_MODULES = (
    "alembic.command",
    "alembic.config",
    "alembic.ddl.sqlite",
    "anyio._backends._asyncio",
    "anyio.from_thread",
    "backends.fake",
    "backends.litellm_backend",
    "backends.openai",
    "backends.peft",
    "backends.python",
    "backends.tinkex.backend",
    "backends.tinkex_dev.command",
    "backends.tinkex_dev.http.listener",
    "backends.tinkex_dev.required_key",
    "backends.tinkex_dev.server",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.routes",
    "celery.app.trace",
    "celery.backends.base",
    "celery.concurrency.solo",
    "celery.events.dispatcher",
    "celery.events.receiver",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.control",
    "celery.worker.loops",
    "celery.worker.strategy",
    "crucible.requirements",
    "crucible.runtime.blocking_backend",
    "ctypes.util",
    "encodings.idna",
    "h11",
    "h2.connection",
    "httpcore",
    "httpx",
    "kombu.mixins",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "nsai_work.cli.app",
    "nsai_work.cli.output.data_progress",
    "nsai_work.client.extend",
    "nsai_work.client.jobfile",
    "nsai_work.client.submit",
    "nsai_work.dispatch.consumer",
    "nsai_work.functions",
    "nsai_work.inference.run",
    "nsai_work.training.driver",
    "nsai_work.worker.attempts.command",
    "nsai_work.worker.inline",
    "nsai_work.worker.service",
    "psycopg.types.numpy",
    "rich.traceback",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
    "stevedore.driver",
    "typer._adapters",
    "typer._click.decorators",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.httptools_impl",
)
MAX_MESSAGE = 1 << 20
PR_SET_CHILD_SUBREAPER = 36


class _PythonProcess(subprocess.Popen[Any]):
    """Python with these arguments; the options are those of ``subprocess.Popen``."""

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, **options: Any
    ):
        super().__init__([sys.executable, *arguments], env=env, cwd=cwd or Path.cwd(), **options)

    if sys.platform == "linux":

        def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *others: Any) -> None:
            _, _, cwd, env, _, _, _, *pipes = others
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = pipes[:6]
            request = json.dumps({"arguments": args[1:], "cwd": str(cwd), "env": dict(env)})
            ends = (p2cread, c2pwrite, errwrite)
            assert -1 not in ends, "stdin, stdout and stderr have to be given"
            self.pid = _fork(request.encode(), ends)
            self._child_created = True
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


class CliProcess(_PythonProcess):
    """``nsai-work`` with these arguments; the options are those of ``subprocess.Popen``."""

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, **options: Any
    ):
        super().__init__([*CLI, *arguments], env=env, cwd=cwd, **options)


class ScriptProcess(_PythonProcess):
    """A Python script with these arguments; the options are those of ``subprocess.Popen``."""

    def __init__(
        self,
        script: Path,
        arguments: Sequence[str] = (),
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        **options: Any,
    ):
        super().__init__([str(script.absolute()), *arguments], env=env, cwd=cwd, **options)


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], stdin: str, timeout: float, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``nsai-work`` to its end, as ``subprocess.run`` does."""
    return _completed(CliProcess(arguments, env=env, cwd=cwd, text=True, **_PIPES), stdin, timeout)


def run_script(
    script: Path, *, env: Mapping[str, str], timeout: float, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a Python script to its end, as ``subprocess.run`` does."""
    return _completed(ScriptProcess(script, env=env, cwd=cwd, text=True, **_PIPES), "", timeout)


_PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)


def _completed(process: "subprocess.Popen[str]", stdin: str, timeout: float) -> "subprocess.CompletedProcess[str]":
    with process:
        try:
            output, errors = process.communicate(stdin, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@cache
def _server() -> tuple[socket.socket, threading.Lock]:
    """Start the process that forks. It ends when our end of its socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", str(theirs.fileno())],
            cwd=ROOT,
            # the test run turns warnings into errors; its child processes must not
            env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def close() -> None:
        ours.close()
        process.wait(30)

    atexit.register(close)
    return ours, threading.Lock()


def _fork(request: bytes, files: Sequence[int]) -> int:
    """Return the id of a new child of this process.

    A child of the server forks it and ends, and Linux gives the orphan to the nearest subreaper, which is this one.
    """
    connection, lock = _server()
    prctl = ctypes.CDLL(None).prctl
    with lock:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(connection, [request], files)
            return int(connection.recv(64))
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns the request in the new process, and None in the server, at its end."""
    while True:
        message, files, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 3)
        if not message:
            return None
        reading, writing = os.pipe()
        middle = os.fork()
        if middle == 0:
            pid = os.fork()
            if pid != 0:
                os.write(writing, str(pid).encode())
                os._exit(0)
            os.close(reading)
            os.close(writing)
            connection.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            request: dict[str, Any] = json.loads(message)
            return request
        os.waitpid(middle, 0)
        connection.send(os.read(reading, 64))
        for file in (reading, writing, *files):
            os.close(file)


def _become(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """Be Python with these arguments in this folder and environment."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    # those of before the fork have found out whether their files can seek
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        lines = 1 if name == "stderr" or os.isatty(number) else -1
        mode = "w" if number else "r"
        stream = open(number, mode, lines, before.encoding, before.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    paths = [str(Path(path).absolute()) for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    if any(name.startswith("NSAI_TEST_VERIFY_") for name in env):
        importlib.import_module("tests.verify.recorder").install_from_environment()
    program, *own = arguments[1:] if arguments[0] == "-m" else arguments
    try:
        if program == "nsai_work.cli":
            sys.path[0:1] = [cwd, *paths]
            sys.argv = ["nsai-work", *own]
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.path[0:1] = [str(Path(program).parent), *paths]
            sys.argv = [program, *own]
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        raise
    _end(0)


def _end(code: int) -> None:
    """End this process as Python would, but for its modules, whose deletion takes longer than a short command.

    Returns if what was written cannot be flushed, for which Python has an exit code of its own.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    os._exit(code)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED_MODULES:
        importlib.import_module(name)
    importlib.import_module("nsai_work.cli.app").command_tree()
    tables = importlib.import_module("tests.migrated_tables")
    tables.replay_migrations()
    tables.statements()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _become(**request)


if __name__ == "__main__":
    _main()
