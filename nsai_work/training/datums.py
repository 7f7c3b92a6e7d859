"""Examples as the service takes them: input tokens, the tokens to predict, and what each counts for.

The target of every token is the one after it. Only what the assistant says counts.
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

CACHED_TOKENS: Final = 8_000_000
"""So many tokens of a data set are kept rendered (12 bytes each); the rest is rendered when its turn comes."""


def to_datum(rendered: RenderedExample, max_tokens: int) -> Datum:
    """One example as a datum, cut to its first ``max_tokens`` tokens."""
    tokens = array("i", rendered.tokens[:max_tokens])
    weights = array("f", rendered.weights[: len(tokens)])
    return Datum(tokens=tokens[:-1], loss_inputs={"target_tokens": tokens[1:], "weights": weights[1:]})


class Datums:
    """The datums of a data set for one tokenizer. Making one checks every example, which may take a while."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._dataset = dataset
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._kept: list[Datum] = []
        tokens = 0
        for example in dataset.examples:
            datum = self._render(example)
            tokens += len(datum.tokens)
            # whatever is kept is a beginning of the file, so that an index finds it
            if tokens <= CACHED_TOKENS:
                self._kept.append(datum)

    def __len__(self) -> int:
        return len(self._dataset.examples)

    def batch(self, indexes: Sequence[int]) -> tuple[Datum, ...]:
        """The datums of these examples."""
        return tuple(self._datum(index) for index in indexes)

    def lines(self, indexes: Sequence[int]) -> list[int]:
        """Where these examples stand in their file."""
        return [self._dataset.examples[index].line for index in indexes]

    def _datum(self, index: int) -> Datum:
        return self._kept[index] if index < len(self._kept) else self._render(self._dataset.examples[index])

    def _render(self, example: Example) -> Datum:
        content = example.content
        render_text, render_example = self._tokenizer.render_text, self._tokenizer.render_example
        rendered = render_text(content) if isinstance(content, str) else render_example(content)
        datum = to_datum(rendered, self._max_tokens)
        if not any(datum.loss_inputs["weights"]):
            raise self._nothing_to_learn(example, rendered)
        return datum

    def _nothing_to_learn(self, example: Example, rendered: RenderedExample) -> InvalidJob:
        first = next((place for place, weight in enumerate(rendered.weights, start=1) if weight), None)
        state = "has no token to learn" if first is None else f"has its first token to learn at place {first}"
        return InvalidJob(
            f"payload.max_tokens: {self._dataset.path}, line {example.line}: {state}, "
            f"and the example is cut after {self._max_tokens} tokens; raise max_tokens or shorten the example",
            details={"field": "payload.max_tokens", "line": example.line},
        )


_shared: WeakValueDictionary[tuple[str, str, str, int], Datums] = WeakValueDictionary()
_rendering = threading.Lock()


def shared_datums(dataset: Dataset, tokenizer: Tokenizer, max_tokens: int) -> Datums:
    """The datums of a data set; runs of this process that need the same ones share them. Blocking.

    Raises:
        InvalidJob: nothing would be learned from an example; names its line.
    """
    key = (dataset.sha256, dataset.format, tokenizer.tokenizer_id, max_tokens)
    with _rendering:
        held = _shared.get(key)
        if held is None:
            held = _shared[key] = Datums(dataset, tokenizer, max_tokens)
        return held
