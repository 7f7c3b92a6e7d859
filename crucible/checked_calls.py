"""Asking a plug-in, and holding it to the contract: what it raises and returns is checked where it comes in."""

from collections.abc import AsyncIterator
from typing import TypeVar, get_args

from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import CrucibleError, PluginError
from crucible.prompt import Prompt
from crucible.stream import StreamEvent

T = TypeVar("T")


async def ask_capabilities(backend: Backend) -> Capabilities:
    """What the backend claims. Raises PluginError when it breaks or answers something else."""
    try:
        answer = await backend.capabilities()
    except Exception as exc:
        raise _translated(exc, backend, "capabilities") from exc
    return _of_type(answer, Capabilities, backend, "capabilities")


async def ask_health(backend: Backend) -> Health:
    """Whether the backend can serve; a plug-in that breaks is a Health that is not ok."""
    try:
        return _of_type(await backend.health_check(), Health, backend, "health_check")
    except Exception as exc:
        return Health(ok=False, reason=f"health_check failed: {exc}")


async def ask_completion(backend: Backend, prompt: Prompt) -> Completion:
    """The answer to a prompt, refused beforehand if the backend lacks what it needs."""
    try:
        await backend.check_prompt(prompt)
        answer = await backend.complete(prompt)
    except Exception as exc:
        raise _translated(exc, backend, "complete") from exc
    return _of_type(answer, Completion, backend, "complete")


async def ask_stream(backend: Backend, prompt: Prompt) -> AsyncIterator[StreamEvent]:
    """The answer in events, refused beforehand if the backend lacks what it needs."""
    try:
        await backend.check_prompt(prompt)
        async for event in backend.stream(prompt):
            if not isinstance(event, _EVENTS):
                raise PluginError(
                    f"stream gave a {type(event).__name__} in place of an event", backend=backend.name
                )
            yield event
    except Exception as exc:
        raise _translated(exc, backend, "stream") from exc


_EVENTS: tuple[type, ...] = get_args(get_args(StreamEvent)[0])


def _translated(exc: Exception, backend: Backend, method: str) -> CrucibleError:
    """Errors of our family as they are; anything else is the plug-in's mistake."""
    if isinstance(exc, CrucibleError):
        if exc.backend is None:
            exc.backend = backend.name
        return exc
    return PluginError(f"{method} raised {exc!r}, which is no error of the contract", backend=backend.name)


def _of_type(answer: object, kind: type[T], backend: Backend, method: str) -> T:
    if isinstance(answer, kind):
        return answer
    raise PluginError(
        f"{method} returned {type(answer).__name__} in place of {kind.__name__}", backend=backend.name
    )
