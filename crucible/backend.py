"""What a plug-in implements: ``Backend``, and beside it ``TrainingBackend`` or ``CommandBackend``.

A plug-in's entry point (group ``crucible.backends``) is a class. It is called with its settings as a mapping,
or with nothing, and must do no I/O until it is opened. All methods are async; the blocking face is made from
them in one place (``crucible.connect``).
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import ClassVar, Self

from pydantic import Field, JsonValue

from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.prompt import Prompt
from crucible.record import Record
from crucible.recovery import RecoveredRun, RecoveryObserver, RecoveryRequest
from crucible.stream import StreamEvent
from crucible.tokenizer import Tokenizer
from crucible.training import CheckpointCheck, LiveRun, RunRef, RunSpec


class Health(Record):
    """Whether a backend can serve now; ``reason`` says why not."""

    ok: bool
    reason: str | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict)


class Backend(ABC):
    """Completions. Open it before use: ``async with backend: ...``."""

    name: ClassVar[str]
    """The entry-point name this class is registered under."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Modules of optional packages that the backend cannot do without: where one is missing, no job is taken."""

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        """Validate settings. No I/O.

        Raises:
            InvalidRequest: a setting is missing or not allowed; the error names it.
        """
        del config

    async def open(self) -> None:
        """Make clients and connections, on the running event loop."""

    async def close(self) -> None:
        """Release them. Safe to call twice."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def capabilities(self) -> Capabilities:
        """What this backend can do, as data. What is not claimed is refused by ``check_prompt``."""

    @abstractmethod
    async def complete(self, prompt: Prompt) -> Completion:
        """Answer a prompt.

        Raises:
            Unsupported: the prompt needs what the backend lacks; nothing was sent.
            InvalidRequest: a field is wrong, or the model is unknown.
            BackendError: the service failed.
        """

    @abstractmethod
    def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        """The same answer in events; folding them gives the ``Completion``. Raises as ``complete``."""

    @abstractmethod
    async def health_check(self) -> Health:
        """Ask the service whether it can serve. Does not raise for a service that is away."""

    async def check_prompt(self, prompt: Prompt) -> None:
        """Refuse what this backend cannot do, before anything is sent.

        Raises:
            Unsupported, InvalidRequest: naming the field and the backend.
        """
        from crucible.requirements import require

        require(prompt, await self.capabilities())


class TrainingBackend(Backend):
    """A backend that trains."""

    losses: ClassVar[tuple[str, ...]] = ()
    """The loss functions that need no more of a datum than ``target_tokens`` and ``weights``, which is what texts
    and conversations give. A job that names another is refused at submit; empty: the service alone knows."""

    @abstractmethod
    async def check_spec(self, spec: RunSpec) -> None:
        """Refuse an unknown base model or an impossible adapter.

        Raises:
            InvalidRequest: naming the field and what is allowed.
            BackendUnavailable: the service could not be asked.
        """

    @abstractmethod
    async def tokenizer(self, base_model: str) -> Tokenizer:
        """The tokenizer of a base model."""

    @abstractmethod
    async def start(self, spec: RunSpec) -> LiveRun:
        """Make a new remote run."""

    @abstractmethod
    async def attach(self, ref: RunRef, *, next_seq_id: int) -> LiveRun:
        """Drive a run that another process began; the next operation prepared gets ``next_seq_id``.

        Raises:
            RunGone: it no longer lives.
            RunCorrupted: it is poisoned.
            Unsupported: runs of this backend live and die with their process.
        """

    @abstractmethod
    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        """Bring the state of the best usable checkpoint back in a new remote run.

        Raises:
            NoCheckpoint: there is none, or none is usable.
            RecoveryExhausted: ``policy.max_attempts`` attempts failed.
        """

    @abstractmethod
    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        """Say whether a recovery may rely on a checkpoint: it exists, has not expired, and fits ``spec``."""

    @abstractmethod
    async def delete_checkpoint(self, path: str) -> None:
        """Delete a checkpoint; one that is gone already is fine."""

    async def keep_checkpoint(self, path: str) -> None:
        """Lift the expiry of a checkpoint: it stays until it is deleted. Nothing to do where none ever expires.

        Raises:
            NotFound: it is gone.
            BackendError: the service could not be told.
        """
        del path


class Command(Record):
    """A named operation with arguments, for backends that do more than complete and train."""

    name: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class CommandBackend(Backend):
    """A backend that runs commands (tool calls, experiment steps)."""

    @abstractmethod
    async def check_command(self, command: Command) -> None:
        """Refuse a command that does not exist or whose arguments are wrong. Raises InvalidRequest."""

    @abstractmethod
    async def execute(self, command: Command) -> dict[str, JsonValue]:
        """Run a command and return its result as JSON."""
