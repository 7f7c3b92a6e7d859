"""Functions that the tests of the python backend run."""

import asyncio
import dataclasses
import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from crucible.errors import BackendUnavailable, CommandRetry, InvalidRequest
from nsai_work.functions import Context

NOT_A_FUNCTION = 7
imported = time.sleep
from_elsewhere = dataclasses.asdict


class Sum(BaseModel):
    """The result of ``add``."""

    total: int


def add(first: int, second: int = 2) -> Sum:
    """Add two numbers."""
    return Sum(total=first + second)


async def add_later(first: int, second: int = 2) -> dict[str, int]:
    """Add two numbers, asynchronously."""
    await asyncio.sleep(0.001)
    return {"total": first + second}


def everything(
    number: float,
    text: Annotated[str, Field(max_length=5)],
    items: list[int],
    table: dict[str, bool],
    maybe: int | None = None,
    **others: str,
) -> dict[str, Any]:
    """Return the arguments."""
    return {"number": number, "text": text, "items": items, "table": table, "maybe": maybe, **others}


def count(total: int, context: Context) -> dict[str, int]:
    """Count to a total, with progress."""
    for done in range(total + 1):
        context.check()
        context.progress(done, total, f"{done} of {total}")
    return {"attempt": context.attempt}


def wait(context: Context) -> None:
    """Wait until canceled."""
    context.wait(60)


async def wait_async() -> None:
    """Wait until canceled, asynchronously."""
    await asyncio.sleep(60)


def never_checks() -> None:
    """Run without looking at the flag."""
    time.sleep(60)


def hold_interpreter() -> int:
    """Run for an hour in a call that lets no other thread run."""
    return sum(range(10**12))


def fail(text: str = "secret-7") -> None:
    """Fail with a text that nobody may see."""
    raise ValueError(text)


def leave() -> None:
    """End the interpreter."""
    sys.exit(3)


def die() -> None:
    """End the process."""
    os._exit(3)


def refuse(kind: str) -> None:
    """Fail with an error of the family."""
    kinds = {"retry": CommandRetry, "unavailable": BackendUnavailable, "invalid": InvalidRequest}
    raise kinds[kind](f"{kind}: by request", retry_after_ms=10)


def succeed_on(attempt: int, context: Context) -> dict[str, int]:
    """Ask for another attempt until it is this one."""
    if context.attempt < attempt:
        raise CommandRetry(f"attempt {context.attempt} is too early", retry_after_ms=1)
    return {"attempt": context.attempt}


def bad_result(kind: str) -> Any:
    """Return what is not JSON."""
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    return {
        "nan": {"loss": [1.0, float("nan")]},
        "bytes": b"x",
        "set": {1, 2},
        "key": {1: "x"},
        "loop": loop,
        "deep": deep,
        "surrogate": "\ud800",
        "integer": 2**63,
        "large": "x" * (17 << 20),
        "object": object(),
    }[kind]


BAD_RESULTS = ("nan", "bytes", "set", "key", "loop", "deep", "surrogate", "integer", "large", "object")


def write_file(name: str, context: Context) -> dict[str, Any]:
    """Write a file and return its path."""
    (context.folder / "report.txt").write_text("done")
    (context.folder / "folder").mkdir(exist_ok=True)
    link = context.folder / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/hostname")
    return {"report": Path(name)}


def environment() -> dict[str, str]:
    """Return the process's environment."""
    print("printed by a function")  # noqa: T201
    return dict(os.environ)


def process_id() -> int:
    """Return the process's id."""
    return os.getpid()


def start_process() -> int:
    """Start a process that outlives the function, and return its id."""
    return subprocess.Popen(["sleep", "60"]).pid


def start_daemon() -> int:
    """Start a process that leaves the group and keeps the function's output open, and return its id."""
    return subprocess.Popen(["sleep", "30"], start_new_session=True).pid


def positional(*rest: int) -> None:
    """Take what has no name."""
    del rest


def unresolvable(value: "NoSuchType") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Have an annotation that cannot be resolved."""
    del value


def _private() -> None:
    """Be private to the module."""


def keep_even(row: dict[str, Any]) -> dict[str, Any] | None:
    """Map an answer to a conversation; drop those of odd lines."""
    if row["line"] % 2:
        return None
    return {"messages": [*row["messages"], {"role": "assistant", "content": f"Line {row['line']}"}]}


def drop(row: dict[str, Any]) -> None:
    """Drop every row."""


def change(row: dict[str, Any]) -> dict[str, Any]:
    """Map a row to another one at each call, as a function must not."""
    return {"messages": [*row["messages"], {"role": "assistant", "content": f"At {time.monotonic_ns()}"}]}


def refuse_third(row: dict[str, Any]) -> dict[str, Any]:
    """Raise at the third row."""
    if row["line"] == 3:
        raise ValueError("the third")
    return row


def tick(file: str, until: str, context: Context) -> dict[str, int]:
    """Write the number of this call to a file, again and again, until another file is there."""
    number = 1 if not Path(file).exists() else 2
    while not Path(until).exists():
        context.check()
        with Path(file).open("a") as ticks:
            ticks.write(f"{number}\n")
        time.sleep(0.02)
    return {"attempt": number}


def hold_alone(lock: str, history: str, until: str, context: Context) -> dict[str, int]:
    """Hold a lock until a file is there, or write into a history that another call runs at the same time."""
    with Path(lock).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            line = {
                "n": 1,
                "act": "overlap",
                "phase": "ok",
                "job": context.job_id,
                "text": f"attempt {context.attempt}",
            }
            Path(history, f"party-function-{os.getpid()}-{secrets.token_hex(4)}.jsonl").write_text(
                json.dumps(line) + "\n"
            )
            raise
        while not Path(until).exists():
            context.wait(0.02)
    return {"attempt": context.attempt}
