"""A plug-in that behaves badly in the ways that hurt a worker. ``install`` makes it known to worker processes."""

import asyncio
import logging
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from backends.fake import FakeBackend
from crucible.backend import Command


class Unruly(FakeBackend):
    """Commands that block the event loop, end the process or never end. ``path`` is a file of the command."""

    name: ClassVar[str] = "unruly"

    async def check_command(self, command: Command) -> None:
        del command

    async def execute(self, command: Command) -> dict[str, JsonValue]:
        arguments = command.arguments
        match command.name:
            case "block" if not await asyncio.to_thread(_done_before, str(arguments["path"])):
                time.sleep(float(str(arguments["s"])))  # noqa: ASYNC251  # that is what it is for
            case "noise":
                _make_noise()
                raise RuntimeError("first line\nsecond line")
            case "exit":
                sys.exit(0)
            case "exit_later":
                asyncio.get_running_loop().call_soon(sys.exit, 0)
                await asyncio.sleep(60)
            case "stop_loop":
                asyncio.get_running_loop().stop()
                await asyncio.sleep(60)
            case "cancel_itself":
                raise asyncio.CancelledError
            case "hang":
                await asyncio.to_thread(Path(str(arguments["path"])).read_text)
            case "stubborn":
                await _stubborn()
        return {}


def _make_noise() -> None:
    """Log in the ways of other libraries, and have Python print a warning and an error of a thread."""
    for name in ("celery.worker", "kombu.connection", "httpx", "uvicorn.error", "some.library"):
        try:
            raise ValueError(f"of {name}\nin two lines")
        except ValueError:
            logging.getLogger(name).warning("two\nlines of %s", name, exc_info=True, stack_info=True)
    logging.getLogger("some.library").warning("%d arguments", "bad")
    warnings.warn("look out", stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0, name="broken")
    thread.start()
    thread.join()


def _done_before(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False


async def _stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


def install(folder: Path) -> dict[str, str]:
    """Register the plug-in in a folder. Returns the variables with which a process finds it."""
    metadata = folder / "unruly-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unruly\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[crucible.backends]\nunruly = tests.unruly:Unruly\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[1]}"}
