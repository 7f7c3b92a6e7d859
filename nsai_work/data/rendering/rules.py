"""Renders examples to datums: input tokens, target tokens and loss weights. The target of each token is its
successor."""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from crucible.errors import InvalidRequest, Unsupported
from crucible.rendering.chat import Chat
from crucible.rendering.tokenizer import RenderedExample, Tokenizer
from crucible.training import Datum
from nsai_work.data.example import Example
from nsai_work.data.problems import RowProblem
from nsai_work.data.rendering.choices import FIELD, choice_datum, choice_place
from nsai_work.data.rendering.image_places import datum_with_images, spread_images, to_datum
from nsai_work.data.row_counts import RowCounts
from nsai_work.payloads import Reduction, TrainingData


@dataclass(frozen=True, slots=True)
class Rendering:
    """The rules by which examples become datums: the tokenizer, the limit of their tokens, and the treatment of
    longer ones. ``is_context`` says that the limit is the model's context, which is less than ``max_tokens``;
    ``no_choices`` why examples with choices cannot be trained on, if they cannot."""

    tokenizer: Tokenizer
    max_tokens: int
    on_long: Literal["cut", "skip", "error"] = "cut"
    reduction: Reduction = "none"
    is_context: bool = False
    no_choices: str = ""
    no_images: str = ""
    """The reason for which examples with images are refused; empty if they are trained on."""

    def of(self, data: TrainingData) -> "Rendering":
        """Return the same rules with the settings of other data."""
        return replace(self, on_long=data.on_long, reduction=data.reduction)

    @property
    def key(self) -> tuple[object, ...]:
        """The inputs, beside an example, that determine its datums."""
        refused = self.no_choices, self.no_images
        return self.tokenizer.tokenizer_id, self.max_tokens, self.on_long, self.reduction, *refused

    def datums(self, example: Example, tally: RowCounts) -> list[Datum]:
        """Return the datums of an example, and count them: none for a bad row or one that is skipped, and several
        for a conversation that the template renders differently as it goes on. Those of a pair are the chosen and
        the rejected one."""
        if example.choices:
            return self._counted_choice(example, tally)
        answers = [example]
        if example.rejected is not None:
            answers = [replace(example, rejected=None), example.rejected]
        try:
            rendered = [self.render(answer) for answer in answers]
            datums = [self._learnt(*each) for each in zip(answers, rendered, strict=True)]
            if example.rejected is not None and max(map(len, datums)) > 1:
                raise RowProblem("an answer becomes several examples", "shorten the conversation")
        except RowProblem as problem:
            tally.bad.add(example.line, problem)
            return []
        if not all(datums):
            tally.skipped.add(example.line)
            return []
        made = [datum for each in datums for datum in each]
        tally.examples += 1 if example.rejected is not None else len(made)
        tally.images += sum(len(answer.images) for answer in answers)
        self._count(example.line, [one for each in rendered for one in each], made, tally)
        if any(len(each) > 1 for each in rendered):
            tally.split.add(example.line)
        return made

    def _learnt(self, example: Example, rendered: Sequence[RenderedExample]) -> list[Datum]:
        """The datums of an answer that have a loss weight; none if it is skipped. Raises RowProblem."""
        datums = [*self._kept(rendered, example)]
        # a turn of a conversation that was split can be cut off whole
        learnt = [datum for datum in datums if any(datum.loss_inputs["weights"])]
        if datums and not learnt:
            raise self._nothing_to_learn(rendered)
        return learnt

    def _count(
        self, line: int, rendered: Sequence[RenderedExample], datums: Sequence[Datum], tally: RowCounts
    ) -> None:
        """Count the tokens of a row."""
        if any(len(one.tokens) > self.max_tokens for one in rendered):
            # of a conversation that is several examples, those within the limit are trained on
            (tally.skipped if self.on_long == "skip" else tally.cut).add(line)
        for one in rendered:
            tally.lengths.append(len(one.tokens))
        for datum in datums:
            tally.tokens += len(datum.tokens) + 1
            tally.trained_tokens += len(datum.tokens) - datum.loss_inputs["weights"].count(0.0)

    def _counted_choice(self, example: Example, tally: RowCounts) -> list[Datum]:
        try:
            if self.no_choices:
                raise RowProblem(f"choices {self.no_choices}", "train on a single answer", FIELD)
            datum = choice_datum(*self._answers(example))
            if len(datum.tokens) >= self.max_tokens:
                if self.on_long == "skip":
                    tally.skipped.add(example.line)
                    return []
                state = f"the choice comes after {len(datum.tokens)} tokens, and the limit is {self.max_tokens}"
                raise RowProblem(f"{state} ({self._limit_name})", "shorten the prompt", self._limit_name)
        except RowProblem as problem:
            tally.bad.add(example.line, problem)
            return []
        tally.examples += 1
        tally.lengths.append(len(datum.tokens) + 1)
        tally.tokens += len(datum.tokens) + 1
        tally.trained_tokens += 1
        return [datum]

    def _answers(self, example: Example) -> tuple[list[RenderedExample], list[float]]:
        """The renderings of all choices, and their weights."""
        if any(choice.images for choice, _ in example.choices):
            raise RowProblem("choices have an image", "train on a single answer", FIELD)
        answers = [self.render(choice) for choice, _ in example.choices]
        if any(len(answer) > 1 for answer in answers):
            raise RowProblem("choices are rendered as several examples", "shorten the conversation", FIELD)
        return [answer[0] for answer in answers], [share * example.weight for _, share in example.choices]

    def render(self, example: Example) -> Sequence[RenderedExample]:
        """Render an example, without a limit; a choice up to it, once for each answer. An image has as many markers
        as it takes tokens. Raises RowProblem."""
        if example.choices:
            answers, shares = self._answers(example)
            place = choice_place(answers)
            return [
                RenderedExample(answer.tokens[: place + 1], (*[0.0] * place, share))
                for answer, share in zip(answers, shares, strict=True)
            ]
        content = example.content
        if example.images and self.no_images:
            raise RowProblem(f"has an image, and {self.no_images}", "leave it out", example.images[0].place)
        try:
            if isinstance(content, str):
                rendered: Sequence[RenderedExample] = (self.tokenizer.render_text(content),)
            else:
                rendered = self.tokenizer.render_training(Chat(content, example.tools), example.weights)
                if example.images:
                    rendered = spread_images(rendered, example.images, self.tokenizer)
        except (InvalidRequest, Unsupported) as error:
            raise RowProblem(error.message, "change the row, or train another model", "messages") from None
        if example.weight == 1.0:
            return rendered
        return [
            RenderedExample(one.tokens, tuple(weight * example.weight for weight in one.weights))
            for one in rendered
        ]

    def _kept(self, rendered: Sequence[RenderedExample], example: Example) -> Iterator[Datum]:
        for one in rendered:
            if len(one.tokens) > self.max_tokens and self.on_long != "cut":
                if self.on_long == "skip":
                    continue
                state = f"has {len(one.tokens)} tokens, and the limit is {self.max_tokens} ({self._limit_name})"
                raise RowProblem(state, "shorten it, or set data.on_long to cut or skip", self._limit_name)
            if example.images:
                datum = datum_with_images(one, self.max_tokens, example.images, self.tokenizer)
            else:
                datum = to_datum(one, self.max_tokens)
            yield _with_sum(datum, example.weight) if self.reduction == "mean" else datum

    @property
    def _limit_name(self) -> str:
        return "the model's context" if self.is_context else "payload.max_tokens"

    def _nothing_to_learn(self, rendered: Sequence[RenderedExample]) -> RowProblem:
        weights = rendered[0].weights
        first = next((number for number, weight in enumerate(weights[1:], start=2) if weight), None)
        if first is None:
            return RowProblem("no token has a loss weight", "an example needs one to learn from", "messages")
        advice = "shorten the example" if self.is_context else "raise max_tokens or shorten the example"
        return RowProblem(
            f"the first token with a loss weight is {first}, and the example is cut after {self.max_tokens} tokens",
            advice,
            self._limit_name,
        )


def _with_sum(datum: Datum, total: float) -> Datum:
    """Return a datum whose loss weights have this sum, if it has any."""
    weights = datum.loss_inputs["weights"]
    found = math.fsum(weights)
    if not found:
        return datum
    scaled = array("f", (weight / found * total for weight in weights))
    return replace(datum, loss_inputs={**datum.loss_inputs, "weights": scaled})
