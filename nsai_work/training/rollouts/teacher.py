"""The teacher of a run's own answers: its most likely tokens in the place of each sampled one, kept in the journal.

A teacher may see another prompt than the student, such as one with a demonstration; then the student learns to
answer as if it had seen that too (self-distillation, Shenfeld et al. 2026, arXiv:2601.19897).
"""

import asyncio
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from crucible.environments import PromptTask
from crucible.losses import TARGETS
from crucible.options import Options
from crucible.prompt import Message, Prompt, Role
from crucible.rendering.chat import chat_of
from crucible.rendering.tokenizer import Tokenizer
from crucible.runtime.side_by_side import side_by_side
from crucible.training import Datum
from nsai_work.errors import InvalidJob
from nsai_work.journal import Journal
from nsai_work.payloads import BASE_REFERENCE, TeacherTargets
from nsai_work.training.rollouts.examples import DIGEST_BYTES, LEAST_WEIGHT, TrainedExample, examples_digest
from nsai_work.training.sources.teacher import CONCURRENCY, SoftTargets, TeacherModels, distribution

_COLUMN: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PROMPT: Final = "prompt"


class RolloutTeacher:
    """The teacher of a job, which reads the answers of each step once. ``rows`` are the prompts by task,
    ``context`` is the longest sequence of the teacher, in tokens."""

    def __init__(
        self,
        spec: TeacherTargets,
        base_model: str,
        tokenizer: Tokenizer,
        rows: Sequence[PromptTask],
        context: int,
        models: TeacherModels,
        journal: Journal,
    ) -> None:
        self._spec = spec
        self._model = base_model if spec.model == BASE_REFERENCE else spec.model
        self._tokenizer = tokenizer
        self._rows = rows
        self._context = context
        self._models = models
        self._journal = journal

    async def soften(
        self, step: int, examples: Sequence[TrainedExample], tasks: Sequence[int]
    ) -> list[TrainedExample]:
        """Return the examples of a step with the teacher's tokens as targets. ``tasks`` are those of the examples.

        Raises:
            CrucibleError: the service failed.
        """
        prompts = await asyncio.to_thread(lambda: [self._prompt(task) for task in tasks])
        places = [self._places(*pair) for pair in zip(examples, prompts, strict=True)]
        if all(len(prompt) >= self._context for prompt in prompts):
            raise InvalidJob(
                "payload.teacher.prompt: the prompts of the teacher leave no room for an answer in its context of "
                f"{self._context} tokens; shorten them",
                details={"field": "payload.teacher.prompt", "step": step},
            )
        count = self._spec.top_k * sum(map(len, places))
        digest = examples_digest(examples)
        kept = await self._journal.reference(step)
        if kept is None or kept[:DIGEST_BYTES] != digest:
            targets = await self._asked(examples, prompts, places)
            # what is read again later is what was trained on
            kept = digest + await asyncio.to_thread(targets.packed)
            await self._journal.keep_reference(step, kept)
        targets = SoftTargets.unpacked(kept[DIGEST_BYTES:], count, step)
        return await asyncio.to_thread(self._softened, examples, places, targets)

    async def close(self) -> None:
        """Close the samplers."""
        await self._models.close()

    def _prompt(self, task: int) -> list[int]:
        messages = teacher_messages(self._rows[task], self._spec.prompt)
        prompt = Prompt(messages=tuple(messages), options=Options(model=self._model))
        return self._tokenizer.render_chat(chat_of(prompt))

    def _places(self, example: TrainedExample, prompt: Sequence[int]) -> list[int]:
        """The targets of an example that the teacher gives: those sampled, as far as its context reaches."""
        sampled = [place for place, mask in enumerate(example.mask) if mask]
        return sampled[self._spec.skip_tokens : max(self._context - len(prompt), 0)]

    async def _asked(
        self, examples: Sequence[TrainedExample], prompts: Sequence[list[int]], places: Sequence[Sequence[int]]
    ) -> SoftTargets:
        asked = [number for number, own in enumerate(places) if own]
        sequences, firsts = [], []
        for number in asked:
            mask, tokens = examples[number].mask, examples[number].datum.loss_inputs[TARGETS]
            sampled = [int(token) for token, own in zip(tokens, mask, strict=True) if own]
            sequences.append([*prompts[number], *sampled][: self._context])
            firsts.append(len(prompts[number]) - 1 + self._spec.skip_tokens)
        k = self._spec.top_k
        calls = [partial(self._models.top_tokens, self._model, sequence, k) for sequence in sequences]
        answers = await side_by_side(calls, limit=CONCURRENCY)
        targets = SoftTargets(array("i"), array("f"))
        for number, first, answer in zip(asked, firsts, answers, strict=True):
            for offset in range(len(places[number])):
                tokens, weights = distribution(answer[first + offset][:k], k)
                targets.tokens.extend(tokens)
                targets.weights.extend(weights)
        return targets

    def _softened(
        self, examples: Sequence[TrainedExample], places: Sequence[Sequence[int]], targets: SoftTargets
    ) -> list[TrainedExample]:
        k, begin, found = self._spec.top_k, 0, []
        for example, own in zip(examples, places, strict=True):
            datum, mask = example.datum, array("f", bytes(4 * len(example.mask)))
            # a token without a weight has targets too, of which none counts
            soft = array("i", (int(token) for token in datum.loss_inputs[TARGETS] for _ in range(k)))
            weights = array("f", bytes(4 * len(soft)))
            for place in own:
                soft[place * k : (place + 1) * k] = targets.tokens[begin : begin + k]
                weights[place * k : (place + 1) * k] = targets.weights[begin : begin + k]
                mask[place] = 1.0
                begin += k
            if not own:
                weights[-1] = LEAST_WEIGHT
            softened = Datum(datum.tokens, {TARGETS: soft, "weights": weights})
            found.append(replace(example, datum=softened, mask=mask))
        return found


def teacher_messages(row: PromptTask, template: str | None) -> list[Message]:
    """Return what the teacher sees of a prompt: the ``template`` in the place of the user's last message.

    Raises:
        InvalidJob: the template names a column that the row lacks, or no message is the user's.
    """
    messages = list(row.messages)
    if template is None:
        return messages
    last = max((place for place, message in enumerate(messages) if message.role is Role.USER), default=None)
    if last is None:
        raise InvalidJob.of("payload.teacher.prompt", template, "a prompt has no message of the user to replace")
    texts: Mapping[str, Any] = {**row.columns, _PROMPT: messages[last].text()}

    def text_of(found: re.Match[str]) -> str:
        if found[1] not in texts:
            named = ", ".join(sorted(texts))
            raise InvalidJob.of(
                "payload.teacher.prompt", template, f"a row lacks {found[1]}; its columns are {named}"
            )
        return str(texts[found[1]])

    messages[last] = Message(role=Role.USER, content=_COLUMN.sub(text_of, template))
    return messages
