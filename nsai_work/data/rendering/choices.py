"""Choices: examples whose answer is one token among several, each with its target probability."""

from array import array
from collections.abc import Sequence

from crucible.rendering.tokenizer import RenderedExample
from crucible.training import Datum
from nsai_work.data.problems import RowProblem

FIELD = "choices"


def choice_place(answers: Sequence[RenderedExample]) -> int:
    """Return the place of the token in which all answers differ.

    Raises:
        RowProblem: there is none, or two answers have the same token there.
    """
    shortest = min(len(answer.tokens) for answer in answers)
    columns = (set(column) for column in zip(*(answer.tokens[:shortest] for answer in answers), strict=True))
    for place, tokens in enumerate(columns):
        if len(tokens) == len(answers):
            return place
        if len(tokens) > 1:
            break
    raise RowProblem(
        "choices are not told apart by one token", "give texts whose first tokens differ, such as A and B", FIELD
    )


def choice_datum(answers: Sequence[RenderedExample], shares: Sequence[float]) -> Datum:
    """Return the datum of a choice: its tokens up to the choice, whose targets are the tokens of all answers, with
    their ``shares`` as weights. Raises RowProblem as ``choice_place``."""
    place, k = choice_place(answers), len(answers)
    before = k * (place - 1)
    targets = array("i", bytes(4 * before)) + array("i", (answer.tokens[place] for answer in answers))
    weights = array("f", bytes(4 * before)) + array("f", shares)
    return Datum(array("i", answers[0].tokens[:place]), {"target_tokens": targets, "weights": weights})
