"""The python backend keeps the contract of command backends, in threads and in processes of their own."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue

from backends.python import PythonBackend
from crucible.backend import Command
from crucible.errors import Unsupported
from crucible.prompt import Prompt
from crucible.testing import CommandBackendContract
from crucible.testing.loop import run_opened
from tests.functions import BAD_RESULTS


def command(name: str, /, *, isolated: bool = False, **arguments: JsonValue) -> Command:
    """Return the command of a test function."""
    options: dict[str, JsonValue] = {"isolated": True} if isolated else {}
    return Command(name=f"tests.functions:{name}", arguments=arguments, options=options)


@pytest.fixture
def backend(tmp_path: Path) -> PythonBackend:
    """A backend that may run the test functions."""
    return PythonBackend({"allow": ["tests.functions"], "files": str(tmp_path)})


class TestSyncFunction(CommandBackendContract):
    """A function in a thread of the worker."""

    isolated = False
    suffix = ""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> PythonBackend:
        return PythonBackend({"allow": ["tests.functions"], "files": str(tmp_path)})

    def command(self) -> tuple[Command, dict[str, JsonValue]]:
        return command("add", isolated=self.isolated, first=40), {"total": 42}

    def invalid_commands(self) -> Sequence[Command]:
        return [command("add"), command("add", first="40"), command("add", first=True), command("add", first=1.5)]

    def slow_command(self) -> Command | None:
        return command("wait", isolated=self.isolated)

    def failing_command(self) -> Command | None:
        return command("fail", isolated=self.isolated)

    def progressing_command(self) -> Command | None:
        return command("count", isolated=self.isolated, total=50)

    def commands_with_bad_results(self) -> Sequence[Command]:
        return [command("bad_result", kind=kind) for kind in BAD_RESULTS]


class TestAsyncFunction(TestSyncFunction):
    """An async function, on an event loop of its own."""

    def command(self) -> tuple[Command, dict[str, JsonValue]]:
        return command("add_later", first=40), {"total": 42}

    def slow_command(self) -> Command | None:
        return command("wait_async")


class TestIsolatedFunction(TestSyncFunction):
    """A function in a process of its own, which needs not check its flag to be stopped."""

    isolated = True

    def slow_command(self) -> Command | None:
        return command("never_checks", isolated=True)

    def commands_with_bad_results(self) -> Sequence[Command]:
        return [command("bad_result", isolated=True, kind="nan")]


def test_it_completes_no_prompts(backend: PythonBackend) -> None:
    """An inference job for it is refused at submit."""
    prompt = Prompt(messages=({"role": "user", "content": "x"},))
    for method in (backend.check_prompt, backend.complete):
        with pytest.raises(Unsupported, match="runs functions"):
            run_opened(backend, lambda _, method=method: method(prompt))


def test_a_function_that_blocks_delays_no_other(backend: PythonBackend) -> None:
    """An async function may block: the worker's event loop is not its own."""

    async def body(opened: object) -> int:
        blocked = asyncio.create_task(backend.execute(command("never_checks")))
        await asyncio.sleep(0)
        began, turns = time.monotonic(), 0
        while time.monotonic() - began < 0.2:
            await asyncio.sleep(0.001)
            turns += 1
        blocked.cancel()
        return turns

    assert run_opened(backend, body) > 10


def test_an_isolated_function_leaves_no_process(backend: PythonBackend) -> None:
    """Neither its process nor one that it started survives it."""
    result = run_opened(backend, lambda _: backend.execute(command("process_id", isolated=True)))

    pid = result["value"]
    assert isinstance(pid, int)
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
