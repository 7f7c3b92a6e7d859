"""Rows of a request and its answer: prompt and completion, Alpaca's form, prompts alone, and preferences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from crucible.values.record import Record
from nsai_work.data.example import Example
from nsai_work.data.forms.messages import MessagesRow, RowMessage, RowTools, Weight
from nsai_work.data.problems import RowProblem
from nsai_work.payloads import TrainOn


def _turns(value: object, role: str) -> list[Any]:
    """Messages: those of a list, or a single one of a text."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return [value]
    raise ValueError("is neither text nor a list of messages")


RowPrompt: TypeAlias = Annotated[tuple[RowMessage, ...], BeforeValidator(lambda value: _turns(value, "user"))]
"""A prompt: text of the user, or messages."""
RowAnswer: TypeAlias = Annotated[
    tuple[RowMessage, ...], Field(min_length=1), BeforeValidator(lambda value: _turns(value, "assistant"))
]
"""An answer: text of the assistant, or messages."""


class PromptOnlyRow(Record):
    """A prompt: text of the user, or messages."""

    prompt: RowPrompt = Field(min_length=1)

    def example(self, train_on: TrainOn) -> Example:
        """Raises RowProblem: nothing is trained."""
        raise RowProblem(
            "is a prompt without an answer, of which sft learns nothing", "add its completion", "prompt"
        )


class CompletionRow(Record):
    """A prompt and its completion: texts of user and assistant, or messages. ``prefill`` is the begin of the
    completion that is given, not trained."""

    prompt: RowPrompt = Field(min_length=1)
    completion: RowAnswer
    prefill: str | None = Field(default=None, min_length=1)
    tools: RowTools = ()
    weight: Weight = 1.0

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Raises RowProblem."""
        begun: Sequence[RowMessage] = self.completion
        if self.prefill is not None:
            if begun[0].prefill is not None or begun[0].role != "assistant":
                raise RowProblem("prefill has no answer to begin", "completion begins with an answer", "prefill")
            begun = (begun[0].model_copy(update={"prefill": self.prefill}), *begun[1:])
        return MessagesRow(messages=(*self.prompt, *begun), tools=self.tools, weight=self.weight).example(train_on)


class AlpacaRow(Record):
    """An instruction, its ``input`` if there is one, and the ``output``; before them ``system`` and the pairs of
    ``history``."""

    instruction: str = Field(min_length=1)
    output: str = Field(min_length=1)
    input: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    weight: Weight = 1.0

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Raises RowProblem."""
        request = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        system = [("system", self.system)] if self.system else []
        past = [turn for user, answer in self.history for turn in (("user", user), ("assistant", answer))]
        messages = [*system, *past, ("user", request), ("assistant", self.output)]
        return MessagesRow.model_validate(
            {"messages": [{"role": role, "content": text} for role, text in messages], "weight": self.weight}
        ).example(train_on)


class PreferenceRow(Record):
    """Two answers of which one was preferred, to ``prompt`` or, without it, as whole conversations."""

    chosen: RowAnswer
    rejected: RowAnswer
    prompt: RowPrompt = ()

    def pair(self) -> Example:
        """Return the pair of the row. Only the answers count. Raises RowProblem."""
        if self.chosen == self.rejected:
            raise RowProblem(
                "has a chosen answer that equals the rejected one", "a pair shows a preference", "rejected"
            )
        examples = []
        for name, answer in (("chosen", self.chosen), ("rejected", self.rejected)):
            messages = (*self.prompt, *answer)
            if messages[-1].role != "assistant":
                raise RowProblem(f"{name} does not end with an assistant message", "it is an answer", name)
            if len(messages) == 1:
                raise RowProblem(f"{name} has no prompt", "give prompt, or whole conversations", name)
            examples.append(MessagesRow(messages=messages).example("last_assistant_message"))
        return replace(examples[0], rejected=examples[1])

    def example(self, train_on: TrainOn) -> Example:
        """Raises RowProblem: sft has no use for a rejected answer."""
        raise RowProblem(
            "is a preference (chosen, rejected), which sft does not train on",
            "set method: dpo, or give prompt and completion instead",
            "chosen",
        )
