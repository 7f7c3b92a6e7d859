"""Batch sources: the batch of each optimizer step, made off the event loop, a bounded number of steps ahead."""

import asyncio
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from pydantic import JsonValue

from crucible.training import Datum, LiveRun, StepResult
from crucible.values.digest import batch_digest
from nsai_work.data.mixture import Mixture
from nsai_work.data.rendering.datums import Datums, JoinedDatums
from nsai_work.data.row_counts import Lines
from nsai_work.journal import RemoteRun
from nsai_work.journal.rollouts import PolicyRecord
from nsai_work.training.plan import Plan
from nsai_work.training.sources.preference import REFERENCE, ReferenceSource

SORTED_INLINE: Final = 4096
"""Up to this many examples an epoch is put in order on the event loop: it takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The batch of an optimizer step. ``epoch`` counts from 0; ``cursor`` is the number of examples of the epoch
    before this batch; ``lines`` are the first lines of its examples in their file, where there is one."""

    step: int
    epoch: int
    cursor: int
    datums: Sequence[Datum]
    lines: Sequence[int] = ()
    references: Sequence[Sequence[float]] = ()
    """The log-probabilities of a reference model for each datum, if the objective needs them."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the examples, which become metrics of the step."""
    origins: Sequence[int] = ()
    """The source of each example, where the data are a mixture."""

    @property
    def for_objective(self) -> Sequence[Datum]:
        """The examples with their reference. The service never sees it."""
        if not self.references:
            return self.datums
        return [
            replace(datum, loss_inputs={**datum.loss_inputs, REFERENCE: reference})
            for datum, reference in zip(self.datums, self.references, strict=True)
        ]

    @property
    def rows(self) -> int:
        """The number of rows of the data: examples, or pairs."""
        return len(self.datums) // 2 if self.references else len(self.datums)

    @property
    def digest(self) -> str:
        """A hex digest of the examples."""
        return batch_digest(self.datums)


class BatchSource(ABC):
    """The batches of a training job by step.

    A step has the same batch whenever and wherever it is made, for every owner of the job: a takeover sends it
    again, a restore repeats it. ``batch`` is called for several steps at once, at most as many as the pipeline is
    deep, and may be canceled at any time; work on files or text belongs into a thread.
    """

    @property
    @abstractmethod
    def examples(self) -> int:
        """The number of examples in an epoch."""

    @abstractmethod
    async def batch(self, step: int) -> StepBatch:
        """Make the batch of a step, from 1. Raises CrucibleError."""

    async def connect(self, run: LiveRun, record: RemoteRun) -> None:
        """The driver drives this run from now on. No call of ``batch`` is running."""

    def policy_saved(self, policy: PolicyRecord) -> None:
        """The run has saved sampling weights for rollouts."""

    async def finished(self) -> None:
        """All steps are recorded. Delete at the service what only they needed."""

    def step_metrics(self, batch: StepBatch, result: StepResult) -> Mapping[str, float]:
        """Return what the metrics of a step say about its batch."""
        del result
        return batch.metrics

    def announcements(self) -> Mapping[str, dict[str, JsonValue]]:
        """Events about the data by name, each emitted once for a job."""
        return {}

    async def result_fields(self) -> dict[str, JsonValue]:
        """The entries about the data in the job's result."""
        return {}

    async def close(self) -> None:
        """Release what the source holds. No call of ``batch`` is running then."""


class DatasetSource(BatchSource):
    """The batches of a data set, shuffled anew in each epoch.

    An epoch contains every example once; its last batch may be smaller than the others. The shuffle uses a hash,
    not a random generator, so that a step has the same batch on every machine and Python version. ``indexes`` are
    the examples to train on, if not all. The batches have the ``reference`` of their pairs, if there is one.
    """

    def __init__(
        self,
        datums: Datums,
        plan: Plan,
        indexes: Sequence[int] | None = None,
        reference: ReferenceSource | None = None,
    ) -> None:
        self._datums = datums
        self._reference = reference
        self._plan = plan
        self._indexes = range(len(datums)) if indexes is None else indexes
        self._sorted_epoch: int | None = None

    @property
    def examples(self) -> int:
        return len(self._indexes)

    async def batch(self, step: int) -> StepBatch:
        known = self.examples <= SORTED_INLINE or self._plan.epoch(step) == self._sorted_epoch
        if known and self._datums.are_rendered(self._batch_indexes(step)):
            return self._make(step)
        return await asyncio.to_thread(self._make, step)

    def _make(self, step: int) -> StepBatch:
        indexes = self._batch_indexes(step)
        self._sorted_epoch = epoch = self._plan.epoch(step)
        cursor = self._plan.cursor(step)
        references = () if self._reference is None else self._reference.of("data", indexes)
        datums, lines = self._datums.batch(indexes), self._datums.lines(indexes)
        return StepBatch(step, epoch, cursor, datums, lines, references)

    def _batch_indexes(self, step: int) -> list[int]:
        return [self._indexes[place] for place in batch_indexes(self._plan, step)]

    def announcements(self) -> Mapping[str, dict[str, JsonValue]]:
        return data_events([self._datums])

    async def result_fields(self) -> dict[str, JsonValue]:
        return data_counts([self._datums])


@dataclass(frozen=True, slots=True)
class MixturePlan:
    """The rows of a mixture by the number of their draw. ``indexes`` are those of each data set to draw from; each
    is shuffled anew each time that all of it was drawn."""

    mixture: Mixture
    indexes: Sequence[Sequence[int]]

    @property
    def rows(self) -> int:
        """The number of rows of all data sets."""
        return sum(map(len, self.indexes))

    def row(self, number: int) -> tuple[int, int]:
        """Return the data set of a draw, from 0, and the index in it."""
        source, earlier = self.mixture.draw(number)
        indexes = self.indexes[source]
        epoch, place = divmod(earlier, len(indexes))
        return source, indexes[epoch_order(len(indexes), self.mixture.seed, epoch, source)[place]]


class MixtureSource(BatchSource):
    """The batches of a mixture of data sets: full ones, in an order that follows from seed and step alone.

    An epoch has as many examples as all of them together. The batches have the ``reference`` of their pairs, if
    there is one, which knows the rows by their index in all ``datums`` together.
    """

    def __init__(
        self, datums: JoinedDatums, order: MixturePlan, plan: Plan, reference: ReferenceSource | None = None
    ) -> None:
        self._datums = datums
        self._order = order
        self._plan = plan
        self._reference = reference

    @property
    def examples(self) -> int:
        return self._order.rows

    async def batch(self, step: int) -> StepBatch:
        return await asyncio.to_thread(self._make, step)

    def _make(self, step: int) -> StepBatch:
        first = (step - 1) * self._plan.batch_size
        drawn = [self._order.row(number) for number in range(first, first + self._plan.batch_size)]
        indexes = [self._datums.index(*row) for row in drawn]
        references = () if self._reference is None else self._reference.of("data", indexes)
        return StepBatch(
            step,
            self._plan.epoch(step),
            self._plan.cursor(step),
            self._datums.batch(indexes),
            [self._datums.sets[source].lines([index])[0] for source, index in drawn],
            references,
            origins=[source for source, _ in drawn],
        )

    def announcements(self) -> Mapping[str, dict[str, JsonValue]]:
        return data_events(self._datums.sets)

    async def result_fields(self) -> dict[str, JsonValue]:
        return data_counts(self._datums.sets)


def data_counts(datums: Sequence[Datums]) -> dict[str, JsonValue]:
    """Return what the result of a job says about its data."""
    tallies = [one.tally for one in datums]
    return {
        "truncated_rows": sum(tally.cut.count for tally in tallies),
        "skipped_rows": sum(tally.skipped.count for tally in tallies),
        "bad_rows": sum(tally.bad.count for tally in tallies),
        "split_rows": sum(tally.split.count for tally in tallies),
        "unused_fields": [*_unused(datums)],
    }


def data_events(datums: Sequence[Datums]) -> dict[str, dict[str, JsonValue]]:
    """Return the events about rows that do not train as they are."""
    tallies = [one.tally for one in datums]
    events: dict[str, dict[str, JsonValue]] = {
        "training.truncated": _event(datums, [tally.cut for tally in tallies]),
        "training.rows_skipped": _event(datums, [tally.skipped for tally in tallies]),
        "training.bad_rows": _event(datums, [Lines(tally.bad.lines, tally.bad.count) for tally in tallies]),
        "training.rows_split": _event(datums, [tally.split for tally in tallies]),
        "training.fields_unused": {
            "rows": sum(sum(tally.unused.values()) for tally in tallies),
            "fields": [*_unused(datums)],
        },
    }
    return {name: data for name, data in events.items() if data["rows"]}


def _unused(datums: Sequence[Datums]) -> list[str]:
    return sorted({name for one in datums for name in one.tally.unused})


def _event(datums: Sequence[Datums], found: Sequence[Lines]) -> dict[str, JsonValue]:
    data: dict[str, JsonValue] = {
        "rows": sum(lines.count for lines in found),
        "of": sum(one.tally.rows for one in datums),
        "lines": [*found[0].first] if len(datums) == 1 else [],
        "max_tokens": datums[0].max_tokens,
    }
    if len(datums) > 1:
        data["sources"] = {
            f"payload.data.sources[{index}].path": [*lines.first]
            for index, lines in enumerate(found)
            if lines.count
        }
    return data


def batch_indexes(plan: Plan, step: int) -> Sequence[int]:
    """Return the examples of a step, by index in the data set."""
    cursor = plan.cursor(step)
    return epoch_order(plan.examples, plan.seed, plan.epoch(step))[cursor : cursor + plan.batch_size]


@lru_cache(maxsize=32)
def epoch_order(examples: int, seed: int, epoch: int, source: int | None = None) -> Sequence[int]:
    """Return the order of the examples in an epoch; of a mixture, of one of its sources."""
    key = (f"{seed}:{epoch}" if source is None else f"{seed}:{epoch}:{source}").encode()
    return array(
        "L",
        sorted(range(examples), key=lambda index: blake2b(index.to_bytes(8), digest_size=16, key=key).digest()),
    )


class Lookahead:
    """Makes the batches of the coming steps in the background, at most ``depth`` steps ahead of the one asked for;
    ``depth`` may be changed at any time.

    ``last_step`` is the last step of the job.
    """

    def __init__(self, source: BatchSource, *, depth: int, last_step: int) -> None:
        self.source = source
        self.depth = depth
        self._last_step = last_step
        self._tasks: dict[int, asyncio.Task[StepBatch]] = {}

    def ready(self, step: int) -> bool:
        """Return whether ``batch`` would return without waiting. Begins to make the batch otherwise."""
        task = self._begin(step)
        return task.done() and not task.cancelled() and task.exception() is None

    async def batch(self, step: int) -> StepBatch:
        """Return the batch of a step, and begin those of the next ones. A failed batch is made again by the next
        call. Canceling the call does not cancel the making.

        Raises:
            CrucibleError: the batch cannot be made.
        """
        task = self._begin(step)
        try:
            return await asyncio.shield(task)
        finally:
            if task.done():
                self._tasks.pop(step, None)

    async def connect(self, run: LiveRun, record: RemoteRun) -> None:
        """Cancel what is being made, and make batches for another run from now on."""
        await self._drop(list(self._tasks))
        await self.source.connect(run, record)

    async def finished(self) -> None:
        """All steps are recorded: cancel what is being made of later ones, then tell the source."""
        await self._drop(list(self._tasks))
        await self.source.finished()

    async def close(self) -> None:
        """Cancel what is being made, and close the source."""
        await self._drop(list(self._tasks))
        await self.source.close()

    async def _drop(self, steps: Sequence[int]) -> None:
        tasks = [self._tasks.pop(step) for step in steps]
        for task in tasks:
            task.cancel()
        # awaits them without raising their errors, which no longer matter
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, step: int) -> "asyncio.Task[StepBatch]":
        wanted = range(step, min(step + self.depth, self._last_step) + 1)
        for other in [other for other in self._tasks if other not in wanted]:
            # a restore went back: what was made ahead is made again when its turn comes
            _discard(self._tasks.pop(other))
        for ahead in wanted:
            if ahead not in self._tasks:
                self._tasks[ahead] = asyncio.create_task(self.source.batch(ahead))
        return self._tasks[step]


def _discard(task: "asyncio.Task[StepBatch]") -> None:
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
