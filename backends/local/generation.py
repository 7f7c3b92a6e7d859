"""Token-by-token generation of answers from a model's logits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crucible.completion import FinishReason, TokenLogprob, TopLogprob
from crucible.options import Options
from crucible.rendering.tokenizer import Tokenizer
from crucible.token_sampler import SamplingSpec, TokenSample

Array: TypeAlias = NDArray[np.float64]

NextLogits: TypeAlias = Callable[[Sequence[int]], Array]
"""Maps the new tokens (first the prompt, then one at a time) to the logits of the next token."""

_DEFAULT_MAX_TOKENS = 64
_MAX_CHARACTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: text, its tokens and their log-probabilities. The last piece has the finish reason."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish: FinishReason | None = None


def generate(
    forward: NextLogits, prompt: Sequence[int], options: Options, tokenizer: Tokenizer, index: int = 0
) -> Iterator[Piece]:
    """Generate the answer of an index to a rendered prompt.

    Greedy without a temperature; a seed makes sampling deterministic. The tokens of a stop sequence are counted,
    its text is omitted.
    """
    random = np.random.default_rng(None if options.seed is None else (options.seed % 2**63, index))
    tokens: list[int] = []
    emitted = 0
    limit = options.max_tokens or _DEFAULT_MAX_TOKENS
    new = list(prompt)
    while True:
        row = log_softmax(forward(new))
        token = _draw(row, options, random)
        new = [token]
        logprobs = (_logprob(row, token, options, tokenizer),)
        if token in tokenizer.stop_tokens:
            yield Piece(tokenizer.decode(tokens)[emitted:], (token,), logprobs, FinishReason.STOP)
            return
        tokens.append(token)
        text = tokenizer.decode(tokens)
        before_stop = _before_stop(text, options.stop)
        if before_stop is not None:
            yield Piece(before_stop[emitted:], (token,), logprobs, FinishReason.STOP)
            return
        last = len(tokens) >= limit
        piece = text[emitted:] if last else text[emitted : max(emitted, _final_length(text, options.stop))]
        emitted += len(piece)
        yield Piece(piece, (token,), logprobs, FinishReason.LENGTH if last else None)
        if last:
            return


def log_softmax(logits: Array) -> Array:
    """Log-probabilities of each row of logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _draw(row: Array, options: Options | SamplingSpec, random: np.random.Generator) -> int:
    if not options.temperature:
        return int(row.argmax())
    scaled = np.exp(log_softmax(row / options.temperature))
    order = np.argsort(-scaled, kind="stable")
    if options.top_k is not None:
        order = order[: options.top_k]
    if options.top_p is not None:
        count = int(np.searchsorted(np.cumsum(scaled[order]), options.top_p)) + 1
        order = order[:count]
    weights = np.cumsum(scaled[order])
    return int(order[min(int(np.searchsorted(weights, random.random() * weights[-1])), len(order) - 1)])


def _final_length(text: str, stops: Sequence[str]) -> int:
    """Length of the text that cannot be part of an incomplete character or stop sequence."""
    withheld = max((len(stop) for stop in stops), default=0)
    return len(text) - withheld - (_MAX_CHARACTER_BYTES if text.endswith("\N{REPLACEMENT CHARACTER}") else 0)


def _before_stop(text: str, stops: Sequence[str]) -> str | None:
    starts = [start for start in (text.find(stop) for stop in stops) if start >= 0]
    return text[: min(starts)] if starts else None


def _logprob(row: Array, token: int, options: Options, tokenizer: Tokenizer) -> TokenLogprob:
    best = np.argsort(-row, kind="stable")[: options.top_logprobs or 0]
    top = tuple(
        TopLogprob(token=tokenizer.decode([int(other)]), token_id=int(other), logprob=float(row[other]))
        for other in best
    )
    return TokenLogprob(token=tokenizer.decode([token]), token_id=token, logprob=float(row[token]), top=top)


def draw_tokens(
    forward: NextLogits, prompt: Sequence[int], settings: SamplingSpec, *, seed: int, index: int = 0
) -> TokenSample:
    """Sample the sequence of an index after a prompt of tokens; the seed determines it."""
    random = np.random.default_rng((seed, index))
    tokens: list[int] = []
    logprobs: list[float] = []
    new = list(prompt)
    while len(tokens) < settings.max_tokens:
        row = log_softmax(forward(new))
        token = _draw(row, settings, random)
        new = [token]
        tokens.append(token)
        logprobs.append(float(row[token]))
        if token in settings.stop_tokens:
            return TokenSample(tuple(tokens), tuple(logprobs), stopped=True)
    return TokenSample(tuple(tokens), tuple(logprobs), stopped=False)


def score_tokens(forward: NextLogits, tokens: Sequence[int]) -> list[float]:
    """Return the log-probability of each token after the first."""
    return [float(log_softmax(forward([token]))[following]) for token, following in pairwise(tokens)]


def top_tokens(forward: NextLogits, tokens: Sequence[int], k: int) -> list[list[tuple[int, float]]]:
    """Return the ``k`` most likely tokens in the place of each token after the first, the most likely first."""
    rows = (log_softmax(forward([token])) for token in tokens[:-1])
    return [[(int(best), float(row[best])) for best in np.argsort(-row, kind="stable")[:k]] for row in rows]
