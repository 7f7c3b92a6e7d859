"""The scripted backend keeps the contract."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue

from backends.fake import FakeBackend
from crucible.backend import Command
from crucible.testing import CommandBackendContract, TrainingBackendContract


class TestFake(TrainingBackendContract):
    """Every promise of the contract, in this process."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FakeBackend:
        return FakeBackend({"home": str(tmp_path)})


class TestFakeCommands(CommandBackendContract):
    """Its commands keep the contract of command backends."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FakeBackend:
        return FakeBackend({"home": str(tmp_path)})

    def command(self) -> tuple[Command, dict[str, JsonValue]]:
        value: JsonValue = {"texts": ["a", None], "number": 1.5}
        return Command(name="echo", arguments={"value": value}), {"value": value}

    def invalid_commands(self) -> Sequence[Command]:
        return [Command(name="sleep"), Command(name="sleep", arguments={"ms": "x"})]

    def slow_command(self) -> Command | None:
        return Command(name="sleep", arguments={"ms": 60_000})

    def failing_command(self) -> Command | None:
        return Command(name="fail", arguments={"times": 100})
