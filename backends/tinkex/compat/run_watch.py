"""The watch over a run: its newest checkpoint, and the service's mark of corruption."""

import asyncio

from backends.tinkex.client.rest.client import RestClient
from backends.tinkex.compat.errors import RunCorruptedError, translated
from backends.tinkex.errors import ClientClosed
from backends.tinkex.recovery.flag import is_flagged
from crucible.errors import CrucibleError, RunCorrupted

POLL_S = 30.0


class RunWatch:
    """The state of a run as a program sees it: optimizer steps, newest checkpoint, corruption.

    A run is found corrupted by an error, by a value that is not finite, or by the service's mark, which is polled.
    From then on every result of the run is the same RunCorruptedError.
    """

    def __init__(self, rest: RestClient, run_id: str, checkpoint: str | None = None) -> None:
        self._rest = rest
        self._run_id = run_id
        self._checkpoint = checkpoint
        self._step: int | None = None if checkpoint is None else 0
        self._steps = 0
        self.corrupted: RunCorruptedError | None = None

    def step(self) -> None:
        """Note that an optimizer step was requested."""
        self._steps += 1

    @property
    def steps(self) -> int:
        """The number of optimizer steps that were requested."""
        return self._steps

    def saved(self, checkpoint: str, step: int) -> None:
        """Note a training state that was saved after ``step`` optimizer steps."""
        if self._step is None or step >= self._step:
            self._checkpoint, self._step = checkpoint, step

    def translated(self, error: CrucibleError) -> Exception:
        """Return the SDK's error for an error of the run; of a corrupted run, always the same one."""
        if isinstance(error, RunCorrupted):
            self._mark(error.message, error.request_id)
        return self.corrupted or translated(error)

    def check(self) -> None:
        """Raise RunCorruptedError once the run is known to be corrupted."""
        if self.corrupted is not None:
            raise self.corrupted

    async def poll(self) -> None:
        """Poll the service's mark until the run has it, or the client is closed."""
        while self.corrupted is None:
            await asyncio.sleep(POLL_S)
            try:
                if await is_flagged(self._rest, self._run_id):
                    self._mark("the service marks it", None)
            except ClientClosed:
                return
            except CrucibleError:
                continue  # a failed poll says nothing of the run

    def _mark(self, reason: str, request_id: str | None) -> None:
        if self.corrupted is None:
            self.corrupted = RunCorruptedError(reason, self._run_id, self._checkpoint, self._step, request_id)
