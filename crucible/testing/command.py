"""The contract test suite of backends that run commands."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Final

import pytest
from pydantic import JsonValue

from crucible.backend import Command, CommandBackend, CommandCall, CommandProgress, Health
from crucible.capabilities import Capabilities
from crucible.errors import CallerError, CrucibleError, InvalidRequest, MalformedAnswer
from crucible.runtime.checked_calls import checked_command
from crucible.testing.loop import run_opened

CANCEL_S: Final = 5.0
"""The time that a cancelled command has to end."""


class CommandBackendContract:
    """The suite. Subclass it with a ``backend`` fixture that returns an unopened backend, and ``command``.

    The other methods describe further commands. A test whose command is not described is skipped.
    """

    @pytest.fixture
    def backend(self) -> CommandBackend:
        """The backend under test."""
        raise NotImplementedError("define a fixture named backend")

    def command(self) -> tuple[Command, dict[str, JsonValue]]:
        """Return a command with its result, which depends on its arguments alone."""
        raise NotImplementedError("define command: a command with its result")

    def invalid_commands(self) -> Sequence[Command]:
        """Return commands of which an argument is missing or has a wrong type or value."""
        return ()

    def slow_command(self) -> Command | None:
        """Return a command that runs for at least 30 s unless it is cancelled."""
        return None

    def failing_command(self) -> Command | None:
        """Return a command that fails."""
        return None

    def progressing_command(self) -> Command | None:
        """Return a command that reports progress."""
        return None

    def commands_with_bad_results(self) -> Sequence[Command]:
        """Return commands whose code returns what is not JSON, such as NaN."""
        return ()

    def test_the_backend_describes_itself(self, backend: CommandBackend) -> None:
        """Capabilities have the registered name and survive JSON; a backend that can serve is healthy."""

        async def body(opened: CommandBackend) -> tuple[Capabilities, Health]:
            return await opened.capabilities(), await opened.health_check()

        claimed, health = run_opened(backend, body)

        assert claimed.backend_id == type(backend).name
        assert Capabilities.model_validate_json(claimed.model_dump_json()) == claimed
        assert health.ok, health.reason

    def test_a_command_returns_its_result(self, backend: CommandBackend) -> None:
        """The result is the expected JSON object, also the second time and without a job."""
        command, expected = self.command()

        async def body(opened: CommandBackend) -> list[dict[str, JsonValue]]:
            await opened.check_command(command)
            return [await self.run(opened, command), await self.run(opened, command), await opened.execute(command)]

        results = run_opened(backend, body)

        assert results == [expected] * 3
        assert json.loads(json.dumps(expected, allow_nan=False)) == expected

    def test_commands_run_at_the_same_time(self, backend: CommandBackend) -> None:
        """Each gets its own result."""
        command, expected = self.command()

        async def body(opened: CommandBackend) -> list[dict[str, JsonValue]]:
            return list(await asyncio.gather(*(self.run(opened, command) for _ in range(8))))

        assert run_opened(backend, body) == [expected] * 8

    def test_an_unknown_command_is_refused(self, backend: CommandBackend) -> None:
        """The error names it."""
        unknown = Command(name="no-such-command-anywhere")
        with pytest.raises(CallerError) as checked:
            run_opened(backend, lambda opened: opened.check_command(unknown))
        with pytest.raises(CallerError) as executed:
            run_opened(backend, lambda opened: self.run(opened, unknown))

        assert "no-such-command-anywhere" in str(checked.value)
        assert "no-such-command-anywhere" in str(executed.value)

    def test_an_unknown_argument_is_refused(self, backend: CommandBackend) -> None:
        """It is never ignored, neither in a check nor in a run; the error names it."""
        command, _ = self.command()
        arguments = {**command.arguments, "no_such_argument": 1}
        self.refused(backend, command.model_copy(update={"arguments": arguments}), "no_such_argument")

    def test_an_unknown_option_is_refused(self, backend: CommandBackend) -> None:
        """It is never ignored; the error names it."""
        command, _ = self.command()
        with pytest.raises(InvalidRequest, match="no_such_option"):
            run_opened(
                backend,
                lambda opened: self.run(opened, command.model_copy(update={"options": {"no_such_option": 1}})),
            )

    def test_invalid_arguments_are_refused(self, backend: CommandBackend) -> None:
        """In a check and in a run."""
        invalid = self.invalid_commands() or pytest.skip("no invalid_commands")
        for command in invalid:
            self.refused(backend, command, "")

    def test_a_failure_is_an_error_of_the_family(self, backend: CommandBackend) -> None:
        """It becomes a failure without a traceback, and the backend serves on."""
        failing = self.failing_command() or pytest.skip("no failing_command")
        command, expected = self.command()

        async def body(opened: CommandBackend) -> tuple[CrucibleError, dict[str, JsonValue]]:
            with pytest.raises(CrucibleError) as caught:
                await self.run(opened, failing)
            return caught.value, await self.run(opened, command)

        error, result = run_opened(backend, body)

        assert "Traceback" not in error.failure().model_dump_json()
        assert result == expected

    def test_a_cancelled_command_ends(self, backend: CommandBackend) -> None:
        """Within 5 s; the backend serves on."""
        slow = self.slow_command() or pytest.skip("no slow_command")
        command, expected = self.command()

        async def body(opened: CommandBackend) -> tuple[float, dict[str, JsonValue]]:
            task = asyncio.create_task(self.run(opened, slow))
            await asyncio.sleep(0.2)
            assert not task.done(), task
            began = time.monotonic()
            task.cancel()
            await asyncio.wait({task}, timeout=2 * CANCEL_S)
            assert task.cancelled(), task
            return time.monotonic() - began, await self.run(opened, command)

        took_s, result = run_opened(backend, body)

        assert took_s < CANCEL_S
        assert result == expected

    def test_a_time_limit_ends_a_command(self, backend: CommandBackend) -> None:
        """As a cancellation does."""
        slow = self.slow_command() or pytest.skip("no slow_command")

        async def body(opened: CommandBackend) -> float:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self.run(opened, slow)
            return time.monotonic() - began

        assert run_opened(backend, body) < 0.2 + CANCEL_S

    def test_progress_is_reported(self, backend: CommandBackend) -> None:
        """Reports arrive in order, and the last one before the result."""
        progressing = self.progressing_command() or pytest.skip("no progressing_command")
        reports: list[CommandProgress] = []
        run_opened(backend, lambda opened: self.run(opened, progressing, CommandCall(report=reports.append)))

        done = [report.done for report in reports if report.done is not None]
        assert reports
        assert done == sorted(done)
        assert all(report.total is None or (report.done or 0) <= report.total for report in reports)

    def test_a_bad_result_is_an_error(self, backend: CommandBackend) -> None:
        """Of this command, and of the family."""
        commands = self.commands_with_bad_results() or pytest.skip("no commands_with_bad_results")
        for command in commands:
            with pytest.raises(MalformedAnswer):
                run_opened(backend, lambda opened, command=command: self.run(opened, command))  # type: ignore[misc]

    async def run(
        self, backend: CommandBackend, command: Command, call: CommandCall | None = None
    ) -> dict[str, JsonValue]:
        """Run a command as a worker does."""
        return await checked_command(backend, command, call or CommandCall())

    def refused(self, backend: CommandBackend, command: Command, named: str) -> None:
        """Assert that a check and a run refuse a command and name something."""
        with pytest.raises(InvalidRequest) as checked:
            run_opened(backend, lambda opened: opened.check_command(command))
        with pytest.raises(InvalidRequest) as executed:
            run_opened(backend, lambda opened: self.run(opened, command))
        assert named in str(checked.value)
        assert named in str(executed.value)
