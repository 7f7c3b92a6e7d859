"""Drawing tokens from the model, one sequence at a time, from a generator of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.model.network import SPAN, Adapters, Array, Network
from crucible.tokenizer import ByteTokenizer

NO_TOKEN: Final = -99999.0
"""The log-probability the wire uses for an empty place in a top-k table."""


@dataclass(frozen=True, slots=True)
class HowToSample:
    """The settings of one request. A temperature of zero takes the likeliest token."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    stop_tokens: frozenset[int] = frozenset({ByteTokenizer.END})
    stop_texts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn: the stop token or stop text is part of it, as on the service."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of the prompt's own tokens; nothing predicts the first."""

    logprobs: tuple[float | None, ...]
    top: tuple[tuple[tuple[int, float], ...] | None, ...] = ()


def draw(
    network: Network,
    adapters: Adapters,
    prompt: Sequence[int],
    how: HowToSample,
    generator: np.random.Generator,
    *,
    top: int = 0,
) -> Drawn:
    """One sequence. The same prompt, settings and generator state give the same tokens."""
    seen = list(prompt)
    tokens: list[int] = []
    logprobs: list[float] = []
    tops: list[tuple[tuple[int, float], ...]] = []
    text = b""
    while len(tokens) < how.max_tokens:
        row = network.forward(np.asarray(seen[-SPAN:], dtype=np.int64), adapters, rows=1).logprobs[0]
        token = _choose(row, how, generator)
        tokens.append(token)
        seen.append(token)
        logprobs.append(float(row[token]))
        if top:
            tops.append(likeliest(row, top))
        text = text + bytes([token]) if token < 256 else b""
        if token in how.stop_tokens or any(text.endswith(stop) for stop in how.stop_texts):
            return Drawn(tuple(tokens), tuple(logprobs), True, tuple(tops))
    return Drawn(tuple(tokens), tuple(logprobs), False, tuple(tops))


def _choose(row: Array, how: HowToSample, generator: np.random.Generator) -> int:
    if how.temperature == 0 or not np.all(np.isfinite(row)):
        return int(np.argmax(row))
    scaled = row.astype(np.float64) / how.temperature
    order = np.argsort(-scaled, kind="stable")
    if how.top_k > 0:
        order = order[: how.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    reach = np.cumsum(weights)
    if how.top_p < 1:
        kept = int(np.searchsorted(reach, how.top_p * reach[-1])) + 1
        reach = reach[:kept]
    spot = int(np.searchsorted(reach, generator.random() * reach[-1], side="right"))
    return int(order[min(spot, len(reach) - 1)])


def likeliest(row: Array, count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` most probable tokens, likeliest first; the lower id first among equals."""
    order = np.argsort(-row, kind="stable")[:count]
    return tuple((int(token), float(row[token])) for token in order)


def score_prompt(
    network: Network, adapters: Adapters, prompt: Sequence[int], *, top: int = 0, last: int | None = None
) -> PromptScores:
    """What the model thought of each prompt token, or of the last ``last`` of them."""
    tokens: NDArray[np.int64] = np.asarray(prompt, dtype=np.int64)
    if len(tokens) < 2:
        return PromptScores((None,) * len(tokens), (None,) * len(tokens) if top else ())
    rows = network.forward(tokens[:-1], adapters).logprobs
    found = [None, *(float(value) for value in rows[np.arange(len(rows)), tokens[1:]])]
    skipped = 0 if last is None else max(0, len(tokens) - last)
    logprobs = tuple(None if place < skipped else value for place, value in enumerate(found))
    if not top:
        return PromptScores(logprobs)
    tops = [None, *(likeliest(row, top) for row in rows)]
    return PromptScores(logprobs, tuple(None if place < skipped else kept for place, kept in enumerate(tops)))
