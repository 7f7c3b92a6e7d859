"""Answers of the small model, token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from backends.fake.model import Array, Model, log_softmax
from crucible.completion import FinishReason, TokenLogprob, TopLogprob
from crucible.options import Options
from crucible.tokenizer import ByteTokenizer

_DEFAULT_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text that is settled, with what it was made from; the last piece says why the answer ends."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish: FinishReason | None = None


def generate(model: Model, prompt: Sequence[int], options: Options, index: int = 0) -> Iterator[Piece]:
    """Answer ``index`` to a rendered prompt. Greedy unless a temperature is given; a seed fixes the draw.

    The tokens of a stop sequence are counted and its text is not given.
    """
    random = np.random.default_rng(None if options.seed is None else (options.seed % 2**63, index))
    tokenizer = ByteTokenizer()
    context, made, given = list(prompt[-2:]), list[int](), 0
    limit = options.max_tokens or _DEFAULT_MAX_TOKENS
    while True:
        row = log_softmax(model.logits(context)[-1])
        token = _draw(row, options, random)
        context = [context[-1], token]
        shown = (_logprob(row, token, options),)
        if token in tokenizer.stop_tokens:
            yield Piece(_text(tokenizer, made, given, whole=True), (token,), shown, FinishReason.STOP)
            return
        made.append(token)
        stopped = _before_stop(tokenizer.decode(made), options.stop)
        if stopped is not None:
            yield Piece(stopped[given:], (token,), shown, FinishReason.STOP)
            return
        last = len(made) >= limit
        text = _text(tokenizer, made, given, whole=last, held=0 if last else _longest(options.stop))
        given += len(text)
        yield Piece(text, (token,), shown, FinishReason.LENGTH if last else None)
        if last:
            return


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


def _text(tokenizer: ByteTokenizer, made: list[int], given: int, *, whole: bool, held: int = 0) -> str:
    """The text not given yet, less what may still turn out to be half a character or half a stop sequence."""
    text = tokenizer.decode(made)
    if whole:
        return text[given:]
    settled = len(text) - (4 if text.endswith("\N{REPLACEMENT CHARACTER}") else 0) - held
    return text[given : max(given, settled)]


def _before_stop(text: str, stops: Sequence[str]) -> str | None:
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(places)] if places else None


def _longest(stops: Sequence[str]) -> int:
    return max((len(stop) for stop in stops), default=0)


def _logprob(row: Array, token: int, options: Options) -> TokenLogprob:
    tokenizer = ByteTokenizer()
    best = np.argsort(-row, kind="stable")[: options.top_logprobs or 0]
    top = tuple(
        TopLogprob(token=tokenizer.decode([int(other)]), token_id=int(other), logprob=float(row[other]))
        for other in best
    )
    return TokenLogprob(token=tokenizer.decode([token]), token_id=token, logprob=float(row[token]), top=top)
