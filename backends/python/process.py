"""Runs a function in a process of its own: JSON over pipes, a chosen environment, and an end on cancellation."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable
from typing import Final

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from backends.python.invocation import Invocation, Raised
from backends.python.results import MAX_RESULT_BYTES
from crucible.backend import CommandProgress
from crucible.errors import BackendUnavailable, CommandFailed, Failure, error_from
from nsai_work.errors import LeaseLost

_log = logging.getLogger(__name__)

INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ")
"""Variables that an isolated process always receives; none of them holds a secret."""

TERMINATE_WAIT_S: Final = 2.0
EXIT_WAIT_S: Final = 2.0
OUTPUT_WAIT_S: Final = 0.2
POLL_S: Final = 0.01
OWNED_POLL_S: Final = 0.2
MAX_LINE_BYTES: Final = 2 * MAX_RESULT_BYTES
MAX_LOGGED_CHARS: Final = 2_000


class _Message(BaseModel):
    """A line of the child: progress, or the outcome as a result or a failure."""

    model_config = ConfigDict(extra="forbid")

    progress: CommandProgress | None = None
    result: dict[str, JsonValue] | None = None
    failure: Failure | None = None
    traceback: str = ""


class _Ownership:
    """This process's ownership of the job, as the child knows it: until a time of the monotonic clock, which is one
    clock on a machine. Sent ahead, since this process may be stopped at any moment."""

    def __init__(self, owned_for_s: Callable[[], float | None]) -> None:
        self._owned_for_s = owned_for_s
        self.until = self._read()

    @property
    def lapsed(self) -> bool:
        """The child has ended itself by now."""
        return self.until is not None and time.monotonic() >= self.until

    async def renew(self, process: Process) -> None:
        """Send a later time whenever there is one, until it is too late."""
        assert process.stdin is not None
        while not self.lapsed:
            await asyncio.sleep(OWNED_POLL_S)
            until = self._read()
            if until is not None and until != self.until and not self.lapsed:
                self.until = until
                process.stdin.write(f"{until}\n".encode())

    def _read(self) -> float | None:
        # in this order: if this process is stopped in between, the time is too early
        now = time.monotonic()
        owned_for_s = self._owned_for_s()
        return None if owned_for_s is None else now + owned_for_s


async def run_in_process(
    name: str, invocation: Invocation, *, allow: Iterable[str], environment: Iterable[str]
) -> dict[str, JsonValue] | Raised:
    """Run a function in a new process and return its result or its error.

    If the task is cancelled, the process group receives SIGTERM, and SIGKILL ``TERMINATE_WAIT_S`` later. If this
    process stands still for longer than it owns the job, the process group ends itself.

    Raises:
        BackendUnavailable: the process could not be started.
        LeaseLost: it has ended itself.
    """
    ownership = _Ownership(invocation.owned_for_s)
    request = {
        "name": name,
        "arguments": invocation.arguments,
        "job_id": invocation.job_id,
        "attempt": invocation.attempt,
        "folder": str(invocation.folder),
        "allow": list(allow),
        "owned_until": ownership.until,
    }
    process = await _start(environment)
    renewal = asyncio.create_task(ownership.renew(process))
    output = asyncio.create_task(_log_output(process, invocation.job_id))
    try:
        outcome = await _converse(process, name, json.dumps(request), invocation)
        if outcome is not None:
            return outcome
        if ownership.lapsed:
            raise LeaseLost(f"{name}: its worker stood still, so it ended before another could run it")
        return _without_result(name, await _wait(process, EXIT_WAIT_S))
    except asyncio.CancelledError:
        _signal_group(process, signal.SIGTERM)
        await _wait(process, TERMINATE_WAIT_S)
        _signal_group(process, signal.SIGKILL)
        raise
    finally:
        renewal.cancel()
        await _end(process)
        await asyncio.wait({output}, timeout=OUTPUT_WAIT_S)
        output.cancel()
        _close_pipes(process)


async def _start(environment: Iterable[str]) -> Process:
    names = (*INHERITED, *environment)
    variables = {name: os.environ[name] for name in names if name in os.environ}
    # the child imports what this process can import
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-u", "-m", "backends.python.child"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**variables, "PYTHONPATH": path},
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
    except OSError as error:
        raise BackendUnavailable(f"no process could be started: {error.strerror}", backend="python") from error


async def _converse(
    process: Process, name: str, request: str, invocation: Invocation
) -> dict[str, JsonValue] | Raised | None:
    """Send the request and return the outcome; None if the process has ended, or closed its output, without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):  # it has died; the end of its stdout says so
        process.stdin.write(request.encode() + b"\n")
        await process.stdin.drain()
    try:
        while line := await process.stdout.readline():
            message = _Message.model_validate_json(line)
            if message.progress is not None:
                invocation.report(message.progress)
            elif message.failure is not None:
                return Raised(error_from(message.failure, default=CommandFailed), message.traceback)
            else:
                return message.result or {}
    except (ValidationError, ValueError):
        return Raised(CommandFailed(f"{name}: its process wrote an invalid line", backend="python"))
    return None


def _without_result(name: str, status: int | None) -> Raised:
    if status is None:
        reason = "it closed its output"
    else:
        reason = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    return Raised(CommandFailed(f"{name}: its process ended without a result ({reason})", backend="python"))


async def _log_output(process: Process, job_id: str) -> None:
    """Log each line that the function prints, in part if it is long."""
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:  # longer than the limit, and dropped by the reader
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        _log.info("function.output job_id=%a text=%a", job_id, text[:MAX_LOGGED_CHARS])


async def _end(process: Process) -> None:
    """Let the process end by itself, then kill what is left of its group."""
    assert process.stdin is not None
    if await _wait(process, EXIT_WAIT_S) is None:
        _log.warning("function.process_killed pid=%d", process.pid)
    _signal_group(process, signal.SIGKILL)
    process.stdin.close()
    await _wait(process, EXIT_WAIT_S)


def _close_pipes(process: Process) -> None:
    """Close the pipes, although a process that has left the group may hold their other ends."""
    transport: asyncio.SubprocessTransport = process._transport  # type: ignore[attr-defined]
    transport.close()


async def _wait(process: Process, timeout_s: float) -> int | None:
    """Wait for the end, and return the exit status; None if it still runs.

    ``process.wait`` would also wait for other processes that have inherited its output.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while process.returncode is None:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(POLL_S)
    return process.returncode


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
