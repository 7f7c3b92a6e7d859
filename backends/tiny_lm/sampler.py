"""Sampling of tokens from the model, one sequence at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.tiny_lm.network import SPAN, Adapters, Array, Network
from crucible.rendering.tokenizer import ByteTokenizer


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Settings of one request. A temperature of zero selects the most likely token."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    stop_tokens: frozenset[int] = frozenset({ByteTokenizer.END})
    stop_texts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """A sampled sequence. It includes the stop token or stop text, as on the service."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of the prompt's tokens; None for the first, which nothing predicts."""

    logprobs: tuple[float | None, ...]
    top: tuple[tuple[tuple[int, float], ...] | None, ...] = ()


def draw(
    network: Network,
    adapters: Adapters,
    prompt: Sequence[int],
    settings: SamplingSettings,
    generator: np.random.Generator,
    *,
    top: int = 0,
) -> SampledTokens:
    """Sample one sequence. Equal prompts, settings and generator states give equal tokens."""
    context = list(prompt)
    tokens: list[int] = []
    logprobs: list[float] = []
    tops: list[tuple[tuple[int, float], ...]] = []
    text = b""
    while len(tokens) < settings.max_tokens:
        row = network.forward(np.asarray(context[-SPAN:], dtype=np.int64), adapters, rows=1).logprobs[0]
        token = _choose(row, settings, generator)
        tokens.append(token)
        context.append(token)
        logprobs.append(float(row[token]))
        if top:
            tops.append(likeliest(row, top))
        text = text + bytes([token]) if token < 256 else b""
        if token in settings.stop_tokens or any(text.endswith(stop) for stop in settings.stop_texts):
            return SampledTokens(tuple(tokens), tuple(logprobs), True, tuple(tops))
    return SampledTokens(tuple(tokens), tuple(logprobs), False, tuple(tops))


def _choose(row: Array, settings: SamplingSettings, generator: np.random.Generator) -> int:
    if settings.temperature == 0 or not np.all(np.isfinite(row)):
        return int(np.argmax(row))
    scaled = row.astype(np.float64) / settings.temperature
    order = np.argsort(-scaled, kind="stable")
    if settings.top_k > 0:
        order = order[: settings.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    reach = np.cumsum(weights)
    if settings.top_p < 1:
        count = int(np.searchsorted(reach, settings.top_p * reach[-1])) + 1
        reach = reach[:count]
    spot = int(np.searchsorted(reach, generator.random() * reach[-1], side="right"))
    return int(order[min(spot, len(reach) - 1)])


def likeliest(row: Array, count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` most likely tokens in descending order; among equals, the lower id first."""
    order = np.argsort(-row, kind="stable")[:count]
    return tuple((int(token), float(row[token])) for token in order)


def score_prompt(
    network: Network, adapters: Adapters, prompt: Sequence[int], *, top: int = 0, last: int | None = None
) -> PromptScores:
    """Log-probabilities of each prompt token, or of the last ``last`` of them."""
    tokens: NDArray[np.int64] = np.asarray(prompt, dtype=np.int64)
    if len(tokens) < 2:
        return PromptScores((None,) * len(tokens), (None,) * len(tokens) if top else ())
    rows = network.forward(tokens[:-1], adapters).logprobs
    scores = [None, *(float(value) for value in rows[np.arange(len(rows)), tokens[1:]])]
    skipped = 0 if last is None else max(0, len(tokens) - last)
    logprobs = tuple(None if index < skipped else score for index, score in enumerate(scores))
    if not top:
        return PromptScores(logprobs)
    tops = [None, *(likeliest(row, top) for row in rows)]
    return PromptScores(logprobs, tuple(None if index < skipped else best for index, best in enumerate(tops)))


def score_targets(
    network: Network, adapters: Adapters, prompt: Sequence[int], targets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Log-probabilities of ``targets[i]`` at the prompt's position ``i + 1``; 0.0 where the id is negative."""
    rows = network.forward(np.asarray(prompt[:-1], dtype=np.int64), adapters).logprobs
    scored = rows[np.arange(len(targets))[:, None], np.maximum(targets, 0)]
    return np.where(targets < 0, 0.0, scored).astype(np.float32)


def draw_alternatives(
    network: Network,
    adapters: Adapters,
    prompt: Sequence[int],
    temperature: float,
    count: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw tokens at each position of the prompt after the first, with replacement, ``[prompt length - 1, count]``.

    Returns the tokens and the model's log-probabilities of them.
    """
    rows = network.forward(np.asarray(prompt[:-1], dtype=np.int64), adapters).logprobs
    settings = SamplingSettings(1, temperature)
    drawn = [[_choose(row, settings, generator) for _ in range(count)] for row in rows]
    tokens = np.asarray(drawn, dtype=np.int64).reshape(len(rows), count)
    return tokens, rows[np.arange(len(rows))[:, None], tokens].astype(np.float32)
