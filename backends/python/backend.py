"""``PythonBackend``: runs functions in this process or in processes of their own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import ClassVar, NoReturn

from pydantic import JsonValue

from backends.python.catalog import Catalog
from backends.python.invocation import Invocation, Raised, run_in_thread
from backends.python.process import run_in_process
from backends.python.settings import PythonOptions, read_settings
from crucible.backend import Command, CommandBackend, CommandCall, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import Unsupported
from crucible.prompt import Prompt
from crucible.stream import StreamEvent
from crucible.values.record_reader import read_record

_log = logging.getLogger(__name__)


class PythonBackend(CommandBackend):
    """Runs functions. A command is the name of an entry point in the group ``nsai_work.functions``, or
    ``package.module:function`` if the settings allow the module. ``config``: see ``PythonSettings``."""

    name: ClassVar[str] = "python"
    command_options: ClassVar[tuple[str, ...]] = tuple(PythonOptions.model_fields)

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_settings(config)
        self._catalog = Catalog(self._settings)

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            backend_id=self.name,
            provider="python",
            options=(),
            commands=self._catalog.names(),
            metadata={"allow": list(self._settings.allow)},
        )

    async def health_check(self) -> Health:
        return Health(
            ok=True, details={"functions": len(self._catalog.names()), "allow": list(self._settings.allow)}
        )

    async def check_prompt(self, prompt: Prompt) -> None:
        del prompt
        _refuse_prompt()

    async def complete(self, prompt: Prompt) -> Completion:
        del prompt
        _refuse_prompt()

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        await self.check_prompt(prompt)
        yield  # type: ignore[misc]  # never reached; makes this an async iterator

    async def check_command(self, command: Command) -> None:
        read_record(PythonOptions, command.options, backend=self.name)
        function = await asyncio.to_thread(self._catalog.load, command.name)
        function.signature.bind(command.arguments)

    async def execute(self, command: Command) -> dict[str, JsonValue]:
        return await self.run_command(command, CommandCall())

    async def run_command(self, command: Command, call: CommandCall) -> dict[str, JsonValue]:
        options = read_record(PythonOptions, command.options, backend=self.name)
        invocation = Invocation(
            arguments=command.arguments,
            job_id=call.job_id,
            attempt=call.attempt,
            folder=self._settings.folder_of(call.job_id),
            report=call.report,
            owned_for_s=call.owned_for_s,
        )
        if options.isolated:
            outcome = await self._isolated(command.name, invocation)
        else:
            outcome = await run_in_thread(invocation, await asyncio.to_thread(self._catalog.load, command.name))
        if not isinstance(outcome, Raised):
            return outcome
        if outcome.traceback:
            # ascii: the text of the function's error must not reach a terminal unescaped
            _log.error(
                "function.failed job_id=%a function=%a traceback=%a", call.job_id, command.name, outcome.traceback
            )
        raise outcome.error

    async def _isolated(self, name: str, invocation: Invocation) -> dict[str, JsonValue] | Raised:
        # the function is imported in its process only
        self._catalog.require(name)
        return await run_in_process(
            name, invocation, allow=self._settings.allow, environment=self._settings.environment
        )


def _refuse_prompt() -> NoReturn:
    raise Unsupported("backend: 'python' runs functions; it completes no prompts", backend="python")
