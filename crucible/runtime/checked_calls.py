"""Calls of a plug-in that check it against the contract: the types of its results and of its exceptions."""

from collections.abc import AsyncIterator
from typing import TypeVar, get_args

from pydantic import JsonValue

from crucible.backend import Backend, Command, CommandBackend, CommandCall, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import CrucibleError, InvalidRequest, MalformedAnswer, PluginError
from crucible.prompt import Prompt
from crucible.stream import StreamEvent
from crucible.values.json_types import json_problem
from crucible.values.suggestions import known_names

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


async def checked_command(backend: CommandBackend, command: Command, call: CommandCall) -> dict[str, JsonValue]:
    """Run a command, after a check of its options. Exceptions of the command are raised unchanged.

    Raises:
        InvalidRequest: the backend has no such option.
        MalformedAnswer: the result is not a JSON object.
    """
    require_known_options(backend, command)
    result: object = await backend.run_command(command, call)
    if not isinstance(result, dict):
        raise MalformedAnswer(f"{command.name} returned no JSON object", backend=backend.name)
    if found := json_problem(result):
        path, problem = found
        raise MalformedAnswer(f"result.{path}: {problem}" if path else f"result: {problem}", backend=backend.name)
    return result


def require_known_options(backend: CommandBackend, command: Command) -> None:
    """Check that the backend has all options of a command. Raises InvalidRequest."""
    for name in command.options:
        if name not in backend.command_options:
            allowed = known_names(name, backend.command_options)
            raise InvalidRequest(
                f"options.{name}: {backend.name} has no such option for commands; {allowed}",
                backend=backend.name,
                details={"field": f"options.{name}"},
            )


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
