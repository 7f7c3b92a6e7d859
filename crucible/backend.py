"""The interfaces of a plug-in: ``Backend``, and its extensions ``TrainingBackend`` and ``CommandBackend``.

A plug-in's entry point (group ``crucible.backends``) is a class. It is called with its settings as a mapping,
or without arguments, and does no I/O until it is opened. All methods are async; ``crucible.connect`` derives the
blocking interface from them.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, JsonValue

from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import Unsupported
from crucible.http.redaction import redacted
from crucible.prompt import Prompt
from crucible.recovery import RecoveredRun, RecoveryObserver, RecoveryRequest
from crucible.rendering.tokenizer import Tokenizer
from crucible.stream import StreamEvent
from crucible.token_sampler import TokenSampler
from crucible.training import CheckpointCheck, LiveRun, RunRef, RunSpec
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Name


class Health(Record):
    """The health of a backend. If it cannot serve now, ``reason`` explains why, without credentials."""

    ok: bool
    reason: Annotated[str, AfterValidator(redacted)] | None = None
    details: FiniteObject = Field(default_factory=dict)


class Backend(ABC):
    """A backend that completes prompts. Open it before use: ``async with backend: ...``."""

    name: ClassVar[str]
    """The entry-point name of the class."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Modules of optional packages that the backend requires; a worker without them claims no job for it."""

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        """Validate settings. No I/O. A worker calls this in a thread.

        Raises:
            InvalidRequest: a setting is missing or invalid; the error names it.
        """
        del config

    @classmethod
    def configured_model(cls) -> str | None:
        """Return the default model that the user has set in the environment, if the backend has such a setting.

        A job's prompt without a model is submitted with it, and refused otherwise: a service's first model may cost
        more than another.
        """
        return None

    async def open(self) -> None:
        """Create clients and connections, on the running event loop, and import in a thread what takes long."""

    async def close(self) -> None:
        """Release them. May be called twice."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def capabilities(self) -> Capabilities:
        """Return the capabilities of this backend. ``check_prompt`` refuses what they do not include."""

    @abstractmethod
    async def complete(self, prompt: Prompt) -> Completion:
        """Complete a prompt.

        Raises:
            Unsupported: the prompt needs a capability that the backend lacks; nothing was sent.
            InvalidRequest: a field is invalid, or the model is unknown.
            BackendError: the service failed.
        """

    @abstractmethod
    def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        """Stream the completion as events, which ``fold`` joins into a ``Completion``. Raises as ``complete``."""

    @abstractmethod
    async def health_check(self) -> Health:
        """Query whether the service can serve. An unreachable service is a result, not an exception."""

    async def check_prompt(self, prompt: Prompt) -> None:
        """Check a prompt against the capabilities, before anything is sent.

        Raises:
            Unsupported, InvalidRequest: naming the field and the backend.
        """
        from crucible.requirements import require

        require(prompt, await self.capabilities())


def no_report(done: int, total: int | None) -> None:
    """Ignore the progress of a download."""
    del done, total


class TrainingBackend(Backend):
    """A backend that also trains models."""

    losses: ClassVar[tuple[str, ...]] = ()
    """The loss functions that read only ``target_tokens`` and ``weights``, which texts and conversations provide.
    A job with any other loss is refused at submit. Empty: only the service knows its loss functions."""

    policy_losses: ClassVar[tuple[str, ...]] = ()
    """The loss functions of sampled tokens (``crucible.losses.POLICY_LOSSES``) that the backend offers for
    reinforcement learning, which needs ``sampler`` and ``LiveRun.sampler`` too. Empty: it offers none."""

    metrics: ClassVar[tuple[str, ...]] = ()
    """The names in ``StepResult.metrics``, by which a job may choose its best checkpoint. Any other name than these
    and ``loss`` is refused at submit."""

    @abstractmethod
    async def check_spec(self, spec: RunSpec) -> None:
        """Check that the base model is known and the adapter possible.

        Raises:
            InvalidRequest: they are not; the error names the field and what is allowed.
            BackendUnavailable: the service does not answer.
        """

    @abstractmethod
    async def tokenizer(self, base_model: str) -> Tokenizer:
        """Return the tokenizer of a base model."""

    async def sampler(self, model: str) -> TokenSampler:
        """Open a sampler of a base model, or of saved sampling weights, apart from any run.

        Raises:
            Unsupported: the backend samples no tokens.
            InvalidRequest, NotFound: there is no such model.
        """
        raise Unsupported("this backend samples no tokens", backend=self.name)

    @abstractmethod
    async def start(self, spec: RunSpec) -> LiveRun:
        """Create a new remote run."""

    @abstractmethod
    async def attach(self, ref: RunRef, *, next_seq_id: int) -> LiveRun:
        """Attach to a run that another process created; the next prepared operation gets ``next_seq_id``.

        Raises:
            RunGone: it no longer exists.
            RunCorrupted: it is corrupted.
            Unsupported: runs of this backend end with their process.
        """

    @abstractmethod
    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        """Restore the preferred usable checkpoint into a new remote run.

        Raises:
            NoCheckpoint: there is none, or none is usable.
            RecoveryExhausted: ``policy.max_attempts`` attempts failed.
        """

    @abstractmethod
    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        """Check that a recovery can use a checkpoint: it exists, has not expired, and fits ``spec``."""

    @abstractmethod
    async def delete_checkpoint(self, path: str) -> None:
        """Delete a checkpoint, if it exists."""

    async def keep_checkpoint(self, path: str) -> None:
        """Remove the expiry of a checkpoint, so that it exists until it is deleted. A no-op if none ever expires.

        Raises:
            NotFound: it does not exist.
            BackendError: the service failed.
        """
        del path

    async def download_checkpoint(
        self,
        path: str,
        folder: Path,
        *,
        max_bytes: int,
        report: Callable[[int, int | None], None] = no_report,
    ) -> None:
        """Write the adapter of a checkpoint into an empty folder, as PEFT loads it (``crucible.adapter_files``).

        ``report(done, total)`` is called with bytes, from any thread; the total may be unknown. After an error the
        folder may hold a part of the files.

        Raises:
            Unsupported: the backend has no downloads (``Capabilities.supports_download``).
            NotFound: the checkpoint does not exist.
            InvalidRequest: its files are larger than ``max_bytes`` (the field ``max_bytes``), or cannot be written.
            MalformedAnswer: what the service sent is no adapter.
        """
        del path, folder, max_bytes, report
        raise Unsupported("this backend has no downloads of checkpoints", backend=self.name)


class Command(Record):
    """A named operation with arguments, other than completion and training.

    ``options`` control how the backend runs it; see ``CommandBackend.command_options``.
    """

    name: Name = Field(min_length=1)
    arguments: FiniteObject = Field(default_factory=dict)
    options: FiniteObject = Field(default_factory=dict)


class CommandProgress(Record):
    """The progress of a command: ``done`` units of ``total``, with a message for people."""

    done: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    total: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    message: str | None = Field(default=None, max_length=1_000)


def _discard(progress: CommandProgress) -> None:
    del progress


def _forever() -> None:
    return None


@dataclass(frozen=True, slots=True)
class CommandCall:
    """The job that a command runs for. ``attempt`` counts from 1; ``job_id`` is the same for all attempts.

    ``report`` records progress; it may be called from any thread. ``owned_for_s`` returns the seconds for which the
    job is still this process's own if its lease is never renewed again, None if nobody else could take it. Work
    that goes on while this process stands still, such as a process of the command's own, has to end before.
    """

    job_id: str = "local"
    attempt: int = 1
    report: Callable[[CommandProgress], None] = _discard
    owned_for_s: Callable[[], float | None] = _forever


class CommandBackend(Backend):
    """A backend that also executes commands (tool calls, experiment steps)."""

    command_options: ClassVar[tuple[str, ...]] = ()
    """The names of the options that commands accept. Any other is refused before the backend is called."""

    @abstractmethod
    async def check_command(self, command: Command) -> None:
        """Check that a command exists and that its arguments and options are valid.

        Raises:
            InvalidRequest: it does not exist, or one of them is invalid; the error names it and what is allowed.
            CommandMissing: this process lacks it. A job is accepted nevertheless, and workers that lack it leave it
                to others.
        """

    @abstractmethod
    async def execute(self, command: Command) -> dict[str, JsonValue]:
        """Execute a command and return its result as JSON. Raises as ``check_command``; other errors are the
        command's own. If the task is cancelled, the command ends within 5 s."""

    async def run_command(self, command: Command, call: CommandCall) -> dict[str, JsonValue]:
        """Execute a command for a job, with progress reports. By default ``execute``, without reports."""
        del call
        return await self.execute(command)
