"""The batch source of a training job's data: a file, or a mixture of several."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from crucible.backend import TrainingBackend
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.data.dataset import load_data
from nsai_work.data.datums import Datums, JoinedDatums, shared_datums
from nsai_work.data.held_out import count_overlap, split_sources
from nsai_work.data.mixture import Mixture
from nsai_work.data.rendering import Rendering
from nsai_work.payloads import PreferenceStep, TrainingData, TrainingStep
from nsai_work.training.evaluation import EvaluationSource, read_examples
from nsai_work.training.plan import Plan
from nsai_work.training.sources.batches import BatchSource, DatasetSource, MixtureSource, batch_indexes
from nsai_work.training.sources.preference import ReferenceSource

DATA, EVALUATED = "data", "eval.data"


async def open_batches(
    payload: TrainingStep, backend: TrainingBackend, wait: InterruptibleAwaiter
) -> tuple[Plan, BatchSource, EvaluationSource | None, ReferenceSource | None]:
    """Load the data of a job and of its evaluation, and render it; of pairs, with their reference.

    Raises:
        InvalidJob, FileUnusable, DataChanged: the data is not usable.
        CrucibleError: the backend has no tokenizer for the model.
    """
    rendering = await wait(rendering_of(payload, backend))
    datums = await asyncio.to_thread(_datums, payload, rendering)
    trained: Sequence[Sequence[int]] = [range(len(each)) for each in datums]
    held_out: Sequence[int] = ()
    evaluated, name, overlap = datums[0], DATA, 0
    joined: JoinedDatums | None = None
    if payload.eval is not None and payload.eval.split is not None:
        examples = [each.examples for each in datums]
        trained, parts = await asyncio.to_thread(split_sources, examples, payload.eval.split)
        joined = JoinedDatums(datums)
        held_out = [joined.index(number, index) for number, part in enumerate(parts) for index in part]
    elif payload.eval is not None and payload.eval.data is not None:
        other = replace(rendering, on_long=payload.eval.data.on_long)
        evaluated, name = await asyncio.to_thread(_held_out, payload.eval.data, other), EVALUATED
        held_out = range(len(evaluated))
        every = chain.from_iterable(each.examples for each in datums)
        overlap = await asyncio.to_thread(count_overlap, every, evaluated.examples)
    if payload.data.sources:
        plan = Plan.of(payload, sum(map(len, trained)))
        mixture = Mixture.of([file.weight for file in payload.data.sources], payload.seed)
        evaluation = _evaluation(joined or evaluated, held_out, overlap=overlap)
        return plan, MixtureSource(datums, mixture, plan, trained), evaluation, None
    training = trained[0]
    plan = Plan.of(payload, len(training))
    reference = None
    if isinstance(payload, PreferenceStep):
        sets = {DATA: datums[0], name: evaluated}
        needed = [(DATA, index) for index in _trained(plan, training)] + [(name, index) for index in held_out]
        reference = ReferenceSource(needed, lambda row: sets[row[0]].batch([row[1]]))
    evaluation = _evaluation(evaluated, held_out, name, reference, overlap)
    return plan, DatasetSource(datums[0], plan, training, reference), evaluation, reference


def _evaluation(
    datums: Datums | JoinedDatums,
    held_out: Sequence[int],
    name: str = DATA,
    reference: ReferenceSource | None = None,
    overlap: int = 0,
) -> EvaluationSource | None:
    if not held_out:
        return None
    return EvaluationSource(datums, held_out, data=name, reference=reference, overlap=overlap)


def _trained(plan: Plan, training: Sequence[int]) -> Sequence[int]:
    """The rows that the steps of a plan use, in the order of the file."""
    if plan.total_steps >= plan.steps_per_epoch:
        return training
    used = {place for step in range(1, plan.total_steps + 1) for place in batch_indexes(plan, step)}
    return [training[place] for place in sorted(used)]


async def rendering_of(payload: TrainingStep, backend: TrainingBackend) -> Rendering:
    """Return how the examples of a job are rendered at a backend: with its tokenizer, up to ``max_tokens`` or the
    model's context, whichever is less."""
    tokenizer = await backend.tokenizer(payload.base_model)
    context = (await backend.capabilities()).context_lengths.get(payload.base_model) or payload.max_tokens
    return Rendering(
        tokenizer,
        min(payload.max_tokens, context),
        on_long=payload.data.on_long,
        is_context=context < payload.max_tokens,
    )


def _datums(payload: TrainingStep, rendering: Rendering) -> list[Datums]:
    return [shared_datums(load_data(payload.data, index), rendering) for index in range(len(payload.data.files()))]


def _held_out(data: TrainingData, rendering: Rendering) -> Datums:
    return read_examples(lambda data: shared_datums(load_data(data), rendering), data)
