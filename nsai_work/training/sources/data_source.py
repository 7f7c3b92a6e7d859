"""The batch source of a training job's data: a file, or a mixture of several."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain

from crucible.backend import TrainingBackend
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.data.dataset import load_data
from nsai_work.data.held_out import count_overlap, split_sources
from nsai_work.data.mixture import Mixture
from nsai_work.data.rendering.datums import Datums, JoinedDatums, shared_datums
from nsai_work.data.rendering.rules import Rendering
from nsai_work.payloads import DistillationStep, PreferenceStep, TrainingData, TrainingStep
from nsai_work.training.evaluation import EvaluationSource, read_examples
from nsai_work.training.plan import Plan
from nsai_work.training.sources.batches import (
    BatchSource,
    DatasetSource,
    MixturePlan,
    MixtureSource,
    batch_indexes,
)
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
    joined = JoinedDatums(datums) if payload.data.sources else None
    evaluated: Datums | JoinedDatums = joined or datums[0]
    name, overlap = DATA, 0
    if payload.eval is not None and payload.eval.split is not None:
        examples = [each.examples for each in datums]
        trained, parts = await asyncio.to_thread(split_sources, examples, payload.eval.split)
        held_out = [
            index if joined is None else joined.index(number, index)
            for number, part in enumerate(parts)
            for index in part
        ]
    elif payload.eval is not None and payload.eval.data is not None:
        other = rendering.of(payload.eval.data)
        held = await asyncio.to_thread(_held_out, payload.eval.data, other)
        evaluated, name, held_out = held, EVALUATED, range(len(held))
        every = chain.from_iterable(each.examples for each in datums)
        overlap = await asyncio.to_thread(count_overlap, every, held.examples)
    if joined is not None:
        plan = Plan.of(payload, sum(map(len, trained)))
        order = MixturePlan(Mixture.of([file.weight for file in payload.data.sources], payload.seed), trained)
        needed = await asyncio.to_thread(_drawn, plan, order, joined) if _has_pairs(payload) else []
        reference = _reference(payload, needed, held_out, {DATA: joined, name: evaluated}, name)
        evaluation = _evaluation(evaluated, held_out, name, reference, overlap)
        return plan, MixtureSource(joined, order, plan, reference), evaluation, reference
    training = trained[0]
    plan = Plan.of(payload, len(training))
    reference = _reference(payload, _trained(plan, training), held_out, {DATA: datums[0], name: evaluated}, name)
    evaluation = _evaluation(evaluated, held_out, name, reference, overlap)
    return plan, DatasetSource(datums[0], plan, training, reference), evaluation, reference


def _has_pairs(payload: TrainingStep) -> bool:
    return isinstance(payload, PreferenceStep)


def _reference(
    payload: TrainingStep,
    trained: Sequence[int],
    held_out: Sequence[int],
    sets: Mapping[str, Datums | JoinedDatums],
    evaluated: str,
) -> ReferenceSource | None:
    """The reference of the pairs that are trained, and of those that are held out in the set ``evaluated``."""
    if not _has_pairs(payload):
        return None
    needed = [(DATA, index) for index in trained] + [(evaluated, index) for index in held_out]
    return ReferenceSource(needed, lambda row: sets[row[0]].batch([row[1]]))


def _drawn(plan: Plan, order: MixturePlan, joined: JoinedDatums) -> list[int]:
    """The rows that the steps of a mixture use, by their index in all data sets together."""
    drawn: set[tuple[int, int]] = set()
    for number in range(plan.total_steps * plan.batch_size):
        drawn.add(order.row(number))
        if len(drawn) == order.rows:
            break
    return sorted(joined.index(*row) for row in drawn)


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
    capabilities = await backend.capabilities()
    context = capabilities.context_lengths.get(payload.base_model) or payload.max_tokens
    no_choices = (
        "" if capabilities.supports_soft_targets else f"need several targets a token; {backend.name} has one"
    )
    if payload.method != "sft":
        no_choices = f"are trained on by method sft, and not by {payload.method}"
    no_images = ""
    if not capabilities.supports_image_training:
        no_images = f"the backend {backend.name!r} takes none in training"
    elif isinstance(payload, DistillationStep):
        no_images = "a teacher is asked about tokens only"
    return Rendering(
        tokenizer,
        min(payload.max_tokens, context),
        on_long=payload.data.on_long,
        reduction=payload.data.reduction,
        is_context=context < payload.max_tokens,
        no_choices=no_choices,
        no_images=no_images,
    )


def _datums(payload: TrainingStep, rendering: Rendering) -> list[Datums]:
    return [shared_datums(load_data(payload.data, index), rendering) for index in range(len(payload.data.files()))]


def _held_out(data: TrainingData, rendering: Rendering) -> Datums:
    return read_examples(lambda data: shared_datums(load_data(data), rendering), data)
