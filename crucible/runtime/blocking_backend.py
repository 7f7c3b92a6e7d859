"""The blocking interface of a backend, derived from its async one."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import JsonValue

from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import CallerError
from crucible.prompt import Prompt
from crucible.registry import load_backend
from crucible.runtime.checked_calls import checked_capabilities, checked_completion, checked_health, checked_stream
from crucible.runtime.monotonic import new_event_loop
from crucible.stream import StreamEvent

if TYPE_CHECKING:
    from anyio.abc import ObjectSendStream
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


def connect(name: str, config: Mapping[str, JsonValue] | None = None) -> "BlockingBackend":
    """Load a backend for blocking code: ``with connect(name) as backend: ...``.

    Raises:
        UnknownBackend, PluginError, InvalidRequest: as ``load_backend``; nothing has been opened then.
    """
    return BlockingBackend(load_backend(name, config))


class BlockingBackend:
    """A backend that runs on its own event loop, in a thread that ends with the ``with`` block."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None

    @property
    def name(self) -> str:
        """The entry-point name."""
        return self._backend.name

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal

        with ExitStack() as stack:
            self._portal = stack.enter_context(
                start_blocking_portal(backend_options={"loop_factory": new_event_loop})
            )
            opened: AbstractContextManager[object] = self._portal.wrap_async_context_manager(self._backend)
            stack.enter_context(opened)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._portal = self._stack, None, None
        if stack is not None:
            stack.__exit__(kind, error, trace)

    def capabilities(self) -> Capabilities:
        """Return the backend's capabilities."""
        return self._call(checked_capabilities, self._backend)

    def complete(self, prompt: Prompt) -> Completion:
        """Complete a prompt. Raises as ``Backend.complete``; ``Ctrl-C`` cancels the call."""
        return self._call(checked_completion, self._backend, prompt)

    def health_check(self) -> Health:
        """Return whether the backend can serve now."""
        return self._call(checked_health, self._backend)

    def stream(self, prompt: Prompt) -> Iterator[StreamEvent]:
        """Stream the answer as events; closing the iterator early stops the backend."""
        import anyio

        portal = self._opened()
        # one task drives the whole stream: an async generator must not be resumed by different tasks
        send, receive = anyio.create_memory_object_stream[StreamEvent](16)
        pump = portal.start_task_soon(self._pump, prompt, send)
        try:
            while True:
                try:
                    yield portal.call(receive.receive)
                except anyio.EndOfStream:
                    break
            pump.result()
        finally:
            pump.cancel()
            portal.call(receive.aclose)

    async def _pump(self, prompt: Prompt, send: "ObjectSendStream[StreamEvent]") -> None:
        async with send:
            async for event in checked_stream(self._backend, prompt):
                await send.send(event)

    def _call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        return self._opened().call(function, *args)

    def _opened(self) -> "BlockingPortal":
        if self._portal is None:
            raise CallerError(f"not open; use: with connect({self.name!r}) as backend", backend=self.name)
        return self._portal
