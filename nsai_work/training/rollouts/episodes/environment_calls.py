"""Calls of an environment, whose faults cost at most its rollouts: neither the run nor the worker."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Final, TypeVar

from crucible.environments import Environment, ServiceFailed
from crucible.http.redaction import redacted
from crucible.rendering.plain_text import plain_line

T = TypeVar("T")


CLOSE_WITHIN_S: Final = 10.0
MAX_REASON: Final = 2_000
"""The longest text of an environment, in characters, that becomes the reason of a failed rollout."""


@dataclass(frozen=True, slots=True)
class OpenedEnvironment:
    """An open environment, the number of its tasks (None if they are endless), and that of the episodes that may be
    open at a time."""

    environment: Environment
    tasks: int | None
    max_episodes: int | None


class EpisodeBroken(Exception):
    """The environment of a rollout failed. The message says how."""


async def called(call: Callable[[], Awaitable[T]], seconds: float, limit: str, kind: type[T] | None = None) -> T:
    """Call an environment, and return what it gave. ``limit`` names what allows it that many ``seconds``.

    Raises:
        EpisodeBroken: it raised anything, SystemExit included, took too long, or gave something else than ``kind``.
        BackendError: a service that it needs failed.
    """
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            begun = call()
            if not isawaitable(begun):
                raise TypeError(f"{_name_of(call)} is not async; define it with async def")
            given = await begun
    except ServiceFailed as failed:
        raise failed.error from failed
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise EpisodeBroken(raised(error)) from error
    except BaseException as error:
        if isinstance(error, GeneratorExit):
            raise
        if isinstance(error, TimeoutError) and timer.expired():
            raise EpisodeBroken(f"it took longer than {limit}") from error
        raise EpisodeBroken(raised(error)) from error
    if kind is not None and not isinstance(given, kind):
        raise EpisodeBroken(f"it gave {type(given).__name__}, not {kind.__name__}")
    return given


def _name_of(call: Callable[[], object]) -> str:
    method: object = call.func if isinstance(call, partial) else call
    return str(getattr(method, "__name__", type(method).__name__))


def raised(error: BaseException) -> str:
    """Return the type and the text of what an environment raised, for the journal: on one line, without
    credentials, of bounded length."""
    try:
        text = str(error)
    except Exception:
        text = "its text cannot be read"
    kind = type(error).__name__
    return bounded(f"{kind}: {text}" if text else kind)


def bounded(text: str) -> str:
    """Return text of an environment on one line, without credentials and of bounded length."""
    # cut before it is looked through for credentials, which takes time, and after it, as escapes are longer
    line = plain_line(redacted(text[: 2 * MAX_REASON]))
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}..."
