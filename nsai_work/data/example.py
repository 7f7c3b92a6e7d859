"""Examples: what a row means, independent of its form."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from crucible.rendering.tokenizer import TurnWeight
from nsai_work.data.images import ExampleImage

Turn: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A training example. ``content`` is a plain text, or the turns of a conversation in the form that chat
    templates read, with a weight for each; ``weight`` is that of the whole. Of a pair it is the chosen
    conversation, with the ``rejected`` one. Of a choice it is the first of the ``choices``, each a conversation
    with its target probability. ``images`` are those of its turns, in order. ``line`` is its first line in the
    file, from 1; ``unused`` names the fields of its row that change nothing."""

    content: tuple[Turn, ...] | str
    line: int = 0
    weights: tuple[TurnWeight, ...] = ()
    tools: tuple[Turn, ...] = ()
    weight: float = 1.0
    rejected: "Example | None" = None
    choices: "tuple[tuple[Example, float], ...]" = ()
    images: tuple[ExampleImage, ...] = ()
    unused: tuple[str, ...] = ()
