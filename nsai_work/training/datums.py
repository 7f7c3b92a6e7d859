"""Datums: examples rendered to input tokens, target tokens and loss weights.

The target of each token is its successor. Only assistant tokens have a weight.
"""

import threading
from array import array
from collections.abc import Sequence
from typing import Final
from weakref import WeakValueDictionary

from crucible.tokenizer import RenderedExample, Tokenizer
from crucible.training import Datum
from nsai_work.errors import InvalidJob
from nsai_work.training.data import Dataset, Example

MAX_CACHED_TOKENS: Final = 8_000_000
"""Limit of rendered tokens cached per data set (12 bytes each). Examples beyond it are rendered on each use."""


def to_datum(rendered: RenderedExample, max_tokens: int) -> Datum:
    """Convert a rendered example to a datum, truncated to its first ``max_tokens`` tokens."""
    tokens = array("i", rendered.tokens[:max_tokens])
    weights = array("f", rendered.weights[: len(tokens)])
    return Datum(tokens=tokens[:-1], loss_inputs={"target_tokens": tokens[1:], "weights": weights[1:]})


class Datums:
    """The datums of a data set for a tokenizer. The constructor renders and checks every example, which may take a
    while."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._dataset = dataset
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._cached: list[Datum] = []
        self.truncated: list[int] = []
        """The first lines of the examples that were cut after ``max_tokens``."""
        tokens = 0
        for example in dataset.examples:
            datum, is_whole = self._render(example)
            if not is_whole:
                self.truncated.append(example.line)
            tokens += len(datum.tokens)
            # the cached datums are a prefix of the file, so that an example's index is its index in the cache
            if tokens <= MAX_CACHED_TOKENS:
                self._cached.append(datum)

    def __len__(self) -> int:
        return len(self._dataset.examples)

    def batch(self, indexes: Sequence[int]) -> tuple[Datum, ...]:
        """Return the datums of the examples with these indexes."""
        return tuple(self._datum(index) for index in indexes)

    def are_rendered(self, indexes: Sequence[int]) -> bool:
        """Return whether ``batch`` would only read its cache."""
        return max(indexes) < len(self._cached)

    def lines(self, indexes: Sequence[int]) -> list[int]:
        """Return the first lines of the examples with these indexes."""
        return [self._dataset.examples[index].line for index in indexes]

    def _datum(self, index: int) -> Datum:
        return self._cached[index] if index < len(self._cached) else self._render(self._dataset.examples[index])[0]

    def _render(self, example: Example) -> tuple[Datum, bool]:
        """The datum of an example, and whether it is whole."""
        content = example.content
        render_text, render_example = self._tokenizer.render_text, self._tokenizer.render_example
        rendered = render_text(content) if isinstance(content, str) else render_example(content)
        datum = to_datum(rendered, self.max_tokens)
        if not any(datum.loss_inputs["weights"]):
            raise self._nothing_to_learn(example, rendered)
        return datum, len(rendered.tokens) <= self.max_tokens

    def _nothing_to_learn(self, example: Example, rendered: RenderedExample) -> InvalidJob:
        first = next((number for number, weight in enumerate(rendered.weights, start=1) if weight), None)
        state = "no token has a loss weight" if first is None else f"the first token with a loss weight is {first}"
        return InvalidJob(
            f"payload.max_tokens: {self._dataset.path}, line {example.line}: {state}, "
            f"and the example is cut after {self.max_tokens} tokens; raise max_tokens or shorten the example",
            details={"field": "payload.max_tokens", "line": example.line},
        )


_shared: WeakValueDictionary[tuple[str, str, str, int], Datums] = WeakValueDictionary()
_rendering = threading.Lock()


def shared_datums(dataset: Dataset, tokenizer: Tokenizer, max_tokens: int) -> Datums:
    """Return the datums of a data set, shared among the runs of this process; blocking.

    Raises:
        InvalidJob: an example has no token with a loss weight; the error names its line.
    """
    key = (dataset.sha256, dataset.format, tokenizer.tokenizer_id, max_tokens)
    with _rendering:
        datums = _shared.get(key)
        if datums is None:
            datums = _shared[key] = Datums(dataset, tokenizer, max_tokens)
        return datums
