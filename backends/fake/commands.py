"""The commands of the fake backend: ``noop``, ``echo``, ``sleep`` and ``fail``."""

import asyncio
from pathlib import Path
from typing import Final

from pydantic import Field, JsonValue

from backends.fake.settings import FailureCode, FakeSettings, scripted_error
from crucible.backend import Command
from crucible.errors import InvalidRequest
from crucible.values.record import Record
from crucible.values.record_reader import read_record
from nsai_work.files.home import make_private_folder


class Noop(Record):
    """Does nothing."""


class Echo(Record):
    """Returns ``value``."""

    value: JsonValue = None


class Sleep(Record):
    """Sleeps for ``ms`` milliseconds."""

    ms: int = Field(ge=0, le=86_400_000)


class Fail(Record):
    """Fails with ``code`` on the first ``times`` attempts with that ``key``, in any process; then succeeds."""

    code: FailureCode = "backend_unavailable"
    times: int = Field(default=1, ge=0, le=10_000)
    key: str = Field(default="fail", pattern=r"^[A-Za-z0-9_-]+$")
    retry_after_ms: int | None = Field(default=None, ge=0)


COMMANDS: Final[dict[str, type[Record]]] = {"echo": Echo, "fail": Fail, "noop": Noop, "sleep": Sleep}


def read_command(command: Command) -> Record:
    """Validate a command's arguments. Raises InvalidRequest."""
    kind = COMMANDS.get(command.name)
    if kind is None:
        raise InvalidRequest.of("name", command.name, f"allowed are {', '.join(COMMANDS)}", backend="fake")
    return read_record(kind, command.arguments, backend="fake")


async def execute(command: Command, settings: FakeSettings) -> dict[str, JsonValue]:
    """Run a command and return its result. Failures are counted by files in a folder of the backend's."""
    match read_command(command):
        case Echo(value=value):
            return {"value": value}
        case Sleep(ms=ms):
            await asyncio.sleep(ms / 1000)
            return {"slept_ms": ms}
        case Fail() as fail:
            return _fail(fail, settings.folder() / "commands")
        case _:
            return {}


def _fail(fail: Fail, folder: Path) -> dict[str, JsonValue]:
    make_private_folder(folder)
    for attempt in range(1, fail.times + 1):
        try:
            # exclusive creation counts correctly even with concurrent processes
            (folder / f"{fail.key}.{attempt}").touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            continue
        raise scripted_error(fail.code, f"command fail, attempt {attempt} of {fail.times},", fail.retry_after_ms)
    return {"failures": fail.times}
