"""The reference model of reinforcement learning: its log-probabilities of what was sampled, kept in the journal,
and the penalty for the distance from it."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from crucible.backend import TrainingBackend
from crucible.losses import ADVANTAGES, LOGPROBS, TARGETS
from crucible.runtime.side_by_side import side_by_side
from nsai_work.journal import Journal
from nsai_work.payloads import BASE_REFERENCE, ReferencePenalty, TrainedModel
from nsai_work.training.rollouts.examples import DIGEST_BYTES, TrainedExample, examples_digest
from nsai_work.training.sources.teacher import TeacherModels

KL_REFERENCE: Final = "kl_reference"
"""The metric of a step with the distance from its reference; of each source with its number behind a point."""
_CONCURRENT: Final = 64


class RolloutReference:
    """The reference models of a job, one for each file of prompts, which score the examples of each step once."""

    def __init__(
        self,
        penalty: ReferencePenalty,
        base_model: str,
        models: Sequence[TrainedModel | str],
        backend: TrainingBackend,
        journal: Journal,
    ) -> None:
        self._penalty = penalty
        # the worker has put paths in the places of other jobs' models
        self._names = [base_model if model == BASE_REFERENCE else str(model) for model in models]
        field = "payload.kl.reference" if len(models) == 1 else "payload.data.sources"
        self._models = TeacherModels(backend, base_model, field=field)
        self._journal = journal

    async def penalize(
        self, step: int, examples: Sequence[TrainedExample], sources: Sequence[int]
    ) -> tuple[list[TrainedExample], dict[str, float]]:
        """Return the examples of a step with the penalty in their advantages, and metrics: by how much their
        sampled tokens are more likely than at the reference, in nats per token, also by source. ``sources`` are
        those of the examples.

        Raises:
            CrucibleError: the service failed.
        """
        import numpy as np

        scores = await self._scores(step, examples, sources)
        masks = [np.asarray(example.mask, dtype=np.float64) for example in examples]
        distances = [
            mask * (np.asarray(example.datum.loss_inputs[LOGPROBS], dtype=np.float64) - score)
            for example, mask, score in zip(examples, masks, scores, strict=True)
        ]
        metrics = {KL_REFERENCE: _mean(distances, masks)}
        for source in sorted(set(sources)) if len(self._names) > 1 else ():
            own = [place for place, each in enumerate(sources) if each == source]
            metrics[f"{KL_REFERENCE}.{source}"] = _mean(
                [distances[place] for place in own], [masks[place] for place in own]
            )
        baseline = metrics[KL_REFERENCE] if self._penalty.baseline == "mean" else 0.0
        added = [
            _discounted(self._penalty.coef * mask * (baseline - distance), self._penalty.discount)
            for mask, distance in zip(masks, distances, strict=True)
        ]
        return [_with_penalty(*pair) for pair in zip(examples, added, strict=True)], metrics

    async def _scores(self, step: int, examples: Sequence[TrainedExample], sources: Sequence[int]) -> list[Any]:
        import numpy as np

        digest = examples_digest(examples)
        kept = await self._journal.reference(step)
        if kept is not None and kept[:DIGEST_BYTES] == digest:
            values = np.frombuffer(zlib.decompress(kept[DIGEST_BYTES:]), dtype="<f4")
        else:
            calls = [
                partial(self._models.score, self._names[source], _whole(example))
                for example, source in zip(examples, sources, strict=True)
            ]
            scores = await side_by_side(calls, limit=_CONCURRENT)
            values = np.concatenate([np.asarray(each, dtype="<f4") for each in scores])
            await self._journal.keep_reference(step, digest + zlib.compress(values.tobytes()))
        ends = np.cumsum([len(example.datum.tokens) for example in examples])
        return [each.astype(np.float64) for each in np.split(values, ends[:-1])]

    async def close(self) -> None:
        """Close the samplers."""
        await self._models.close()


def _whole(example: TrainedExample) -> list[int]:
    return [*example.datum.tokens, int(example.datum.loss_inputs[TARGETS][-1])]


def _mean(distances: Sequence[Any], masks: Sequence[Any]) -> float:
    return float(sum(each.sum() for each in distances) / max(sum(each.sum() for each in masks), 1.0))


def _discounted(values: Any, discount: float) -> Any:
    if not discount:
        return values
    total = 0.0
    for place in range(len(values) - 1, -1, -1):
        total = values[place] = values[place] + discount * total
    return values


def _with_penalty(example: TrainedExample, added: Any) -> TrainedExample:
    advantages = [
        float(before) + float(more)
        for before, more in zip(example.datum.loss_inputs[ADVANTAGES], added, strict=True)
    ]
    return example.with_advantages(advantages)
