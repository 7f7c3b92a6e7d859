"""Rows as they are trained: the rendered text in pieces, each with its loss weight."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from pydantic import JsonValue

from crucible.rendering.tokenizer import RenderedExample, Tokenizer
from nsai_work.data.example import Example
from nsai_work.data.problems import RowProblem
from nsai_work.data.rendering.rules import Rendering


def preview(examples: Sequence[Example], rendering: Rendering) -> list[JsonValue]:
    """Return rows as ``{"line", "pieces": [{"text", "weight"}, ...]}``; text beyond the limit has weight None. A
    pair is its chosen answer, then the rejected one."""
    return [*_previews(examples, rendering)]


def _previews(examples: Sequence[Example], rendering: Rendering) -> Iterator[JsonValue]:
    for example in examples:
        answers = [example] if example.rejected is None else [example, example.rejected]
        try:
            rendered = [one for answer in answers for one in rendering.render(answer)]
        except RowProblem as problem:
            yield {"line": example.line, "problem": str(problem)}
            continue
        for one in rendered:
            yield {"line": example.line, "pieces": [*_pieces(one, rendering.tokenizer, rendering.max_tokens)]}


def _pieces(rendered: RenderedExample, tokenizer: Tokenizer, limit: int) -> Iterator[JsonValue]:
    weights = [weight if place < limit else None for place, weight in enumerate(rendered.weights)]
    for weight, group in groupby(zip(rendered.tokens, weights, strict=True), key=lambda item: item[1]):
        yield {"text": tokenizer.decode(token for token, _ in group), "weight": weight}
