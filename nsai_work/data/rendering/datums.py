"""Datums: the rendered examples of a data set, cached up to a limit."""

import copy
import threading
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final
from weakref import WeakValueDictionary

from crucible.training import Datum
from nsai_work.data.dataset import Dataset
from nsai_work.data.example import Example
from nsai_work.data.rendering.rules import Rendering

MAX_CACHED_TOKENS: Final = 8_000_000
"""Limit of rendered tokens cached per data set (12 bytes each). Examples beyond it are rendered on each use."""


class Datums:
    """The datums of a data set. The constructor renders and checks every example, which may take a while.

    Raises:
        InvalidJob: an example cannot be used, or none is left; the error names its line.
    """

    def __init__(self, dataset: Dataset, rendering: Rendering) -> None:
        self._dataset = dataset
        self._rendering = rendering
        self._cached: list[Datum] = []
        self._places = array("L")
        """The example of each datum."""
        self._parts = array("L")
        """The number of each datum among those of its example."""
        self.tally = tally = copy.deepcopy(dataset.tally)
        tokens, has_images = 0, False
        for place, example in enumerate(dataset.examples):
            for part, datum in enumerate(rendering.datums(example, tally)):
                self._places.append(place)
                self._parts.append(part)
                tokens += len(datum.tokens)
                # the cached datums are the first ones, so that a datum's index is its index in the cache; images
                # would fill the memory
                has_images = has_images or bool(datum.images)
                if tokens <= MAX_CACHED_TOKENS and not has_images:
                    self._cached.append(datum)
        tally.bad.raise_if_any(tally.rows)
        if not self._places:
            raise tally.bad.error("every row was skipped; at least one is required")

        self._group = 2 if dataset.examples[0].rejected is not None else 1
        """The number of datums of a row to train on: two of a pair. An index is that of such a row."""

    def __len__(self) -> int:
        return len(self._places) // self._group

    @property
    def examples(self) -> list[Example]:
        """The example of each datum or pair."""
        return [self._dataset.examples[place] for place in self._places[:: self._group]]

    @property
    def max_tokens(self) -> int:
        """The limit of an example's tokens."""
        return self._rendering.max_tokens

    def batch(self, indexes: Sequence[int]) -> tuple[Datum, ...]:
        """Return the datums with these indexes; of a pair, the chosen and the rejected one."""
        places = (index * self._group + part for index in indexes for part in range(self._group))
        return tuple(self._datum(place) for place in places)

    def are_rendered(self, indexes: Sequence[int]) -> bool:
        """Return whether ``batch`` would only read its cache."""
        return (max(indexes, default=0) + 1) * self._group <= len(self._cached)

    def lines(self, indexes: Sequence[int]) -> list[int]:
        """Return the first lines of the examples of the datums with these indexes."""
        return [self._dataset.examples[self._places[index * self._group]].line for index in indexes]

    def _datum(self, index: int) -> Datum:
        if index < len(self._cached):
            return self._cached[index]
        example = self._dataset.examples[self._places[index]]
        return self._rendering.datums(example, copy.deepcopy(self._dataset.tally))[self._parts[index]]


class JoinedDatums:
    """The datums of several data sets, one after the other."""

    def __init__(self, sets: Sequence[Datums]) -> None:
        self.sets = sets
        """The data sets."""
        self._begins = [0, *accumulate(map(len, sets))]

    def index(self, number: int, index: int) -> int:
        """Return the index here of a datum of a data set."""
        return self._begins[number] + index

    def batch(self, indexes: Sequence[int]) -> tuple[Datum, ...]:
        """Return the datums with these indexes."""
        return tuple(
            datum for number, index in map(self._place, indexes) for datum in self.sets[number].batch([index])
        )

    def are_rendered(self, indexes: Sequence[int]) -> bool:
        """Return whether ``batch`` would only read caches."""
        return all(self.sets[number].are_rendered([index]) for number, index in map(self._place, indexes))

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._begins, index) - 1
        return number, index - self._begins[number]


_shared: WeakValueDictionary[tuple[object, ...], Datums] = WeakValueDictionary()
_rendering = threading.Lock()


def shared_datums(dataset: Dataset, rendering: Rendering) -> Datums:
    """Return the datums of a data set, shared among the runs of this process; blocking.

    Raises:
        InvalidJob: an example has no token with a loss weight; the error names its line.
    """
    key = (dataset.key, *rendering.key)
    with _rendering:
        datums = _shared.get(key)
        if datums is None:
            datums = Datums(dataset, rendering)
            # content that is not pinned has no key of its own
            return _shared.setdefault(key, datums) if not dataset.key.startswith("None ") else datums
        return datums
