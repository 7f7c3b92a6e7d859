"""Plain texts: ``{"text": ...}``, and the paragraphs of a text file."""

from typing import Final

from pydantic import Field

from crucible.values.record import Record
from nsai_work.data.example import Example
from nsai_work.data.forms.messages import Weight
from nsai_work.data.problems import RowProblem
from nsai_work.payloads import TrainOn

WHOLE: Final = ("all_assistant_messages", "all_messages", "all_tokens")
"""The default, and the modes that mean every token of a text."""


class TextRow(Record):
    """A text, of which every token is trained."""

    text: str = Field(min_length=1)
    weight: Weight = 1.0

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Raises RowProblem: it has no turns of which to train some."""
        if train_on not in WHOLE:
            raise RowProblem(f"is a text, to which train_on {train_on} does not apply", "leave it out", "text")
        return Example(self.text, weight=self.weight)
