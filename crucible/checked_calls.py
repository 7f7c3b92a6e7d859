"""Calls of a plug-in that check it against the contract: the types of its results and of its exceptions."""

from collections.abc import AsyncIterator
from typing import TypeVar, get_args

from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import CrucibleError, PluginError
from crucible.prompt import Prompt
from crucible.stream import StreamEvent

T = TypeVar("T")


async def checked_capabilities(backend: Backend) -> Capabilities:
    """Return the backend's capabilities. Raises PluginError when the call fails or returns another type."""
    try:
        result = await backend.capabilities()
    except Exception as exc:
        raise _as_crucible_error(exc, backend, "capabilities") from exc
    return _expect(result, Capabilities, backend, "capabilities")


async def checked_health(backend: Backend) -> Health:
    """Return the backend's health; a call that fails counts as unhealthy."""
    try:
        return _expect(await backend.health_check(), Health, backend, "health_check")
    except Exception as exc:
        return Health(ok=False, reason=f"health_check failed: {exc}")


async def checked_completion(backend: Backend, prompt: Prompt) -> Completion:
    """Complete a prompt, after a check that the backend has the capabilities it needs."""
    try:
        await backend.check_prompt(prompt)
        result = await backend.complete(prompt)
    except Exception as exc:
        raise _as_crucible_error(exc, backend, "complete") from exc
    return _expect(result, Completion, backend, "complete")


async def checked_stream(backend: Backend, prompt: Prompt) -> AsyncIterator[StreamEvent]:
    """Stream the result to a prompt, after a check that the backend has the capabilities it needs."""
    try:
        await backend.check_prompt(prompt)
        async for event in backend.stream(prompt):
            if not isinstance(event, _EVENTS):
                raise PluginError(
                    f"stream yielded a {type(event).__name__} instead of an event", backend=backend.name
                )
            yield event
    except Exception as exc:
        raise _as_crucible_error(exc, backend, "stream") from exc


_EVENTS: tuple[type, ...] = get_args(get_args(StreamEvent)[0])


def _as_crucible_error(exc: Exception, backend: Backend, method: str) -> CrucibleError:
    """The exception itself if it is a CrucibleError; a PluginError otherwise."""
    if isinstance(exc, CrucibleError):
        if exc.backend is None:
            exc.backend = backend.name
        return exc
    return PluginError(f"{method} raised {exc!r}, which is not a CrucibleError", backend=backend.name)


def _expect(result: object, kind: type[T], backend: Backend, method: str) -> T:
    if isinstance(result, kind):
        return result
    raise PluginError(f"{method} returned {type(result).__name__} instead of {kind.__name__}", backend=backend.name)
