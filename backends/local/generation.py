"""Answers token by token, from anything that gives logits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crucible.completion import FinishReason, TokenLogprob, TopLogprob
from crucible.options import Options
from crucible.tokenizer import Tokenizer

Array: TypeAlias = NDArray[np.float64]

Continue: TypeAlias = Callable[[Sequence[int]], Array]
"""Takes the tokens that are new (first the prompt, then one by one) and gives the logits of the next."""

_DEFAULT_MAX_TOKENS = 64
_HALF_A_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text that is settled, with what it was made from; the last piece says why the answer ends."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish: FinishReason | None = None


def generate(
    forward: Continue, prompt: Sequence[int], options: Options, tokenizer: Tokenizer, index: int = 0
) -> Iterator[Piece]:
    """Answer ``index`` to a rendered prompt. Greedy unless a temperature is given; a seed fixes the draw.

    The tokens of a stop sequence are counted and its text is not given.
    """
    random = np.random.default_rng(None if options.seed is None else (options.seed % 2**63, index))
    made: list[int] = []
    given = 0
    limit = options.max_tokens or _DEFAULT_MAX_TOKENS
    new = list(prompt)
    while True:
        row = log_softmax(forward(new))
        token = _draw(row, options, random)
        new = [token]
        shown = (_logprob(row, token, options, tokenizer),)
        if token in tokenizer.stop_tokens:
            yield Piece(tokenizer.decode(made)[given:], (token,), shown, FinishReason.STOP)
            return
        made.append(token)
        text = tokenizer.decode(made)
        stopped = _before_stop(text, options.stop)
        if stopped is not None:
            yield Piece(stopped[given:], (token,), shown, FinishReason.STOP)
            return
        last = len(made) >= limit
        piece = text[given:] if last else text[given : max(given, _settled(text, options.stop))]
        given += len(piece)
        yield Piece(piece, (token,), shown, FinishReason.LENGTH if last else None)
        if last:
            return


def log_softmax(logits: Array) -> Array:
    """Log probabilities of each row."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _draw(row: Array, options: Options, random: np.random.Generator) -> int:
    if not options.temperature:
        return int(row.argmax())
    scaled = np.exp(log_softmax(row / options.temperature))
    order = np.argsort(-scaled, kind="stable")
    if options.top_k is not None:
        order = order[: options.top_k]
    if options.top_p is not None:
        reached = int(np.searchsorted(np.cumsum(scaled[order]), options.top_p)) + 1
        order = order[:reached]
    weights = np.cumsum(scaled[order])
    return int(order[min(int(np.searchsorted(weights, random.random() * weights[-1])), len(order) - 1)])


def _settled(text: str, stops: Sequence[str]) -> int:
    """How much of the text can no longer turn out to be half a character or half a stop sequence."""
    held = max((len(stop) for stop in stops), default=0)
    return len(text) - held - (_HALF_A_CHARACTER if text.endswith("\N{REPLACEMENT CHARACTER}") else 0)


def _before_stop(text: str, stops: Sequence[str]) -> str | None:
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(places)] if places else None


def _logprob(row: Array, token: int, options: Options, tokenizer: Tokenizer) -> TokenLogprob:
    best = np.argsort(-row, kind="stable")[: options.top_logprobs or 0]
    top = tuple(
        TopLogprob(token=tokenizer.decode([int(other)]), token_id=int(other), logprob=float(row[other]))
        for other in best
    )
    return TokenLogprob(token=tokenizer.decode([token]), token_id=token, logprob=float(row[token]), top=top)
