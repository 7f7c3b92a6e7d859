"""Direct preference optimization (DPO): the loss, and the log-probabilities of its reference model.

The loss of a pair is ``-log(sigmoid(beta * margin))``, where ``margin`` is by how much more the trained model
prefers the chosen answer to the rejected one than the reference does (Rafailov et al. 2023, arXiv:2305.18290,
equation 7).
"""

import asyncio
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from crucible.backend import TrainingBackend
from crucible.training import Datum, ForwardResult, LiveRun, Pending, RunSpec
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.errors import UnreadableJournal
from nsai_work.journal import Journal
from nsai_work.payloads import BASE_REFERENCE, PreferenceStep
from nsai_work.training.plan import steps_in_flight
from nsai_work.training.restart.saved_state import load_state

REFERENCE: Final = "reference_logprobs"
"""The loss input with the log-probabilities of the reference. It never reaches the service."""
ROWS_PER_PASS: Final = 64
"""The number of pairs in a forward pass of the reference, and in a row of the store."""
METRICS: Final = ("accuracy", "margin", "chosen_reward", "rejected_reward")
"""The metrics of a step: the part of the pairs with a positive margin; the mean margin and rewards, times beta."""


def dpo(
    data: Sequence[Datum], logprobs: Sequence[Any], *, beta: float
) -> tuple[float, Sequence[Any], Mapping[str, float]]:
    """The objective of DPO. ``data`` are the chosen and the rejected answer of each pair, in turn."""
    import numpy as np

    weights = [np.asarray(datum.loss_inputs["weights"], dtype=np.float64) for datum in data]
    references = [np.asarray(datum.loss_inputs[REFERENCE], dtype=np.float64) for datum in data]
    rewards = beta * np.array(
        # tokens without a weight may have any log-probability
        [(w[w != 0] * (p - r)[w != 0]).sum() for w, p, r in zip(weights, logprobs, references, strict=True)]
    )
    chosen, rejected = rewards[0::2], rewards[1::2]
    margins = chosen - rejected
    slopes = -beta * np.exp(-np.logaddexp(0.0, margins)) / len(margins)
    gradients = [
        weight * (slopes[place // 2] if place % 2 == 0 else -slopes[place // 2])
        for place, weight in enumerate(weights)
    ]
    metrics = {
        "accuracy": float((margins > 0).mean()),
        "margin": float(margins.mean()),
        "chosen_reward": float(chosen.mean()),
        "rejected_reward": float(rejected.mean()),
    }
    return float(np.logaddexp(0.0, -margins).mean()), gradients, metrics


@dataclass(frozen=True, slots=True)
class ReferenceContext:
    """The inputs of the computation of the reference."""

    payload: PreferenceStep
    spec: RunSpec
    backend: TrainingBackend
    journal: Journal
    wait: InterruptibleAwaiter


class ReferenceSource:
    """The log-probabilities of the reference model for all pairs of a job, computed once and kept in the store.

    ``rows`` are the keys of all pairs in order; ``datums`` returns those of a pair.
    """

    def __init__(
        self, rows: Sequence[tuple[str, int]], datums: Callable[[tuple[str, int]], Sequence[Datum]]
    ) -> None:
        self._rows = rows
        self._datums = datums
        self._known: dict[tuple[str, int], Sequence[Sequence[float]]] = {}

    def of(self, data: str, indexes: Sequence[int]) -> list[Sequence[float]]:
        """Return the log-probabilities of these pairs of a data set, for each datum."""
        return [each for index in indexes for each in self._known[data, index]]

    async def complete(self, scope: "ReferenceContext") -> None:
        """Load what is kept, and compute and keep the rest, on a run of its own.

        Raises:
            UnreadableJournal: a row of the store does not fit the data.
            CrucibleError: the reference cannot be loaded, or a forward pass failed.
        """
        if len(self._known) == len(self._rows):
            return
        kept = await scope.journal.references()
        passes = [self._rows[start : start + ROWS_PER_PASS] for start in range(0, len(self._rows), ROWS_PER_PASS)]
        for number, data in kept.items():
            if number < len(passes):
                await asyncio.to_thread(self._add, passes[number], _unpacked(data, number))
        missing = [number for number in range(len(passes)) if number not in kept]
        if not missing:
            return
        run = await _reference_run(scope)
        try:
            await self._compute(scope, run, passes, missing)
        finally:
            await run.close(unload=True)
        details: dict[str, JsonValue] = {
            "reference": str(scope.payload.reference),
            "pairs": len(self._rows),
            "computed_passes": len(missing),
        }
        await scope.journal.event("training.reference", details)

    async def _compute(
        self,
        scope: "ReferenceContext",
        run: LiveRun,
        passes: Sequence[Sequence[tuple[str, int]]],
        missing: Sequence[int],
    ) -> None:
        pending: deque[tuple[int, asyncio.Task[Pending[ForwardResult]]]] = deque()
        waiting = deque(missing)
        depth = (
            steps_in_flight(scope.payload, ahead=run.features.sends_ahead) if run.features.replays is True else 1
        )
        try:
            while waiting or pending:
                while waiting and len(pending) < depth:
                    number = waiting.popleft()
                    # images are read from files
                    batch = await asyncio.to_thread(self._batch, passes[number])
                    prepared = run.prepare_forward(batch, step=0, name=f"reference-{number:06d}")
                    pending.append((number, asyncio.create_task(run.send(prepared))))
                    if not run.features.sends_ahead:
                        await scope.wait(_accepted(pending[-1][1]))
                number, oldest = pending.popleft()
                accepted = await scope.wait(_accepted(oldest))
                result = await scope.wait(accepted.result())
                values = array("d", (value for each in result.logprobs for value in each))
                await scope.journal.keep_reference(number, _packed(values))
                await asyncio.to_thread(self._add, passes[number], values)
        finally:
            for _, sending in pending:
                sending.cancel()
            await asyncio.gather(*(sending for _, sending in pending), return_exceptions=True)

    def _batch(self, rows: Sequence[tuple[str, int]]) -> list[Datum]:
        return [datum for row in rows for datum in self._datums(row)]

    def _add(self, rows: Sequence[tuple[str, int]], values: "array[float]") -> None:
        place = 0
        for row in rows:
            pair = []
            for datum in self._datums(row):
                pair.append(values[place : place + len(datum.tokens)])
                place += len(datum.tokens)
            self._known[row] = pair
        if place != len(values):
            raise UnreadableJournal(f"nsai_references holds {len(values)} log-probabilities for {place} tokens")


async def _reference_run(scope: "ReferenceContext") -> LiveRun:
    backend, path = scope.backend, scope.payload.reference
    # the worker has put the path of another job's state in the place of its name
    assert isinstance(path, str)
    if path == BASE_REFERENCE:
        # a new adapter changes nothing yet, so that a new run is the base model
        return await scope.wait(backend.start(scope.spec))
    return await scope.wait(load_state(backend, scope.spec, path, field="reference"))


async def _accepted(sending: "asyncio.Task[Pending[ForwardResult]]") -> Pending[ForwardResult]:
    return await sending


def _packed(values: "array[float]") -> bytes:
    import numpy as np

    return zlib.compress(np.asarray(values, dtype="<f8").tobytes())


def _unpacked(data: bytes, number: int) -> "array[float]":
    import numpy as np

    try:
        return array("d", np.frombuffer(zlib.decompress(data), dtype="<f8").tolist())
    except (zlib.error, ValueError) as error:
        raise UnreadableJournal(f"nsai_references, row of number {number}: {error}") from error
