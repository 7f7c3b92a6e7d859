"""Rows of a decision: a prompt, and the answers to choose from with their target probabilities."""

import math
from typing import Annotated, Final

from pydantic import Field, field_validator

from crucible.values.record import Record
from nsai_work.data.example import Example
from nsai_work.data.forms.instructions import CompletionRow, RowPrompt
from nsai_work.data.forms.messages import RowMessage, RowTools, Weight
from nsai_work.data.problems import RowProblem
from nsai_work.payloads import TrainOn

ANSWERS: Final = ("all_assistant_messages", "last_assistant_message", "last_assistant_turn")
"""The default, and the modes that mean the last answer."""
_CLOSE: Final = 1e-3


class ChoicesRow(Record):
    """A prompt and the ``choices`` of its answer: texts that differ in one token, each with its target probability.
    ``prefill`` is text that comes before each of them."""

    prompt: RowPrompt = Field(min_length=1)
    choices: dict[Annotated[str, Field(min_length=1)], Weight] = Field(min_length=2, max_length=1_000)
    prefill: str | None = Field(default=None, min_length=1)
    tools: RowTools = ()
    weight: Weight = 1.0

    @field_validator("choices")
    @classmethod
    def _require_probabilities(cls, value: dict[str, float]) -> dict[str, float]:
        total = math.fsum(value.values())
        if abs(total - 1.0) > _CLOSE:
            raise ValueError(f"are the probabilities of all choices, whose sum is 1; it is {total:g}")
        return value

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Only the choice counts. Raises RowProblem, also for other ``train_on``."""
        if train_on not in ANSWERS:
            raise RowProblem(
                f"is a choice, to which train_on {train_on} does not apply", "its answer is trained", "choices"
            )
        answers = [
            CompletionRow(
                prompt=self.prompt,
                completion=(RowMessage(role="assistant", content=text, weight=1.0),),
                prefill=self.prefill,
                tools=self.tools,
            ).example("customized")
            for text in self.choices
        ]
        pairs = tuple(zip(answers, self.choices.values(), strict=True))
        return Example(answers[0].content, weight=self.weight, choices=pairs, unused=answers[0].unused)
