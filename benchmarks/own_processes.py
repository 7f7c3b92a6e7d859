"""The processes that a benchmark starts: they end with it, whatever ends it."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark, and exit with its code. Afterwards no process is left that it has started.

    SIGINT and SIGTERM end it as an error does, so that it drops its schemas too. A shell starts what runs in its
    background with SIGINT ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _exit)
    try:
        sys.exit(main())
    finally:
        for pid in [*_descendants(os.getpid())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()


def _exit(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _descendants(pid: int) -> Iterator[int]:
    """The processes that a process and those that it started have started, as Linux knows them."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from _descendants(child)
