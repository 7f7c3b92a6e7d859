"""Distillation: the batches of the data, with a teacher's most likely tokens as their targets.

A token's targets are the teacher's most likely tokens in its place, weighted by their probabilities among each
other. What a teacher says of a step is kept in the store before the step is sent, so that every owner of the job
trains on the same targets and no teacher is asked twice.
"""

import asyncio
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from pydantic import JsonValue

from crucible.backend import TrainingBackend
from crucible.errors import CallerError, MalformedAnswer
from crucible.losses import TARGETS
from crucible.runtime.opened_samplers import OpenedSamplers
from crucible.runtime.side_by_side import side_by_side
from crucible.token_sampler import TokenSampler, checked_scores
from crucible.training import Datum, LiveRun, StepResult
from nsai_work.errors import InvalidJob, UnreadableJournal
from nsai_work.journal import RemoteRun
from nsai_work.journal.rollouts import PolicyRecord
from nsai_work.payloads import DistillationStep
from nsai_work.training.sources.batches import BatchSource, StepBatch
from nsai_work.training.sources.token_check import opened_for_tokens

CONCURRENCY: Final = 32
"""The maximum number of examples of a step that teachers read at once."""


class TargetJournal(Protocol):
    """The job's journal, of which distillation needs what was kept of the teachers, by step."""

    async def reference(self, number: int) -> bytes | None:
        """Return what is kept under a number."""
        ...

    async def keep_reference(self, number: int, data: bytes) -> None:
        """Keep it. What is kept already stays."""
        ...


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """The targets of trained tokens: for each of them ``k`` tokens and their weights, one token's after the
    other's."""

    tokens: "array[int]"
    weights: "array[float]"

    def packed(self) -> bytes:
        """Return them as compressed bytes."""
        import numpy as np

        tokens, weights = np.asarray(self.tokens, dtype="<i4"), np.asarray(self.weights, dtype="<f4")
        return zlib.compress(tokens.tobytes() + weights.tobytes())

    @classmethod
    def unpacked(cls, data: bytes, count: int, step: int) -> "SoftTargets":
        """Read ``count`` targets. Raises UnreadableJournal: they are not those of the step."""
        import numpy as np

        try:
            content = zlib.decompress(data)
            if len(content) != 8 * count:
                raise ValueError(f"it holds {len(content)} bytes for {count} targets")
        except (zlib.error, ValueError) as error:
            raise UnreadableJournal(f"nsai_references, row of number {step}: {error}") from error
        tokens = np.frombuffer(content, "<i4", count)
        weights = np.frombuffer(content, "<f4", count, 4 * count)
        return cls(array("i", tokens.tolist()), array("f", weights.tolist()))


class TeacherModels:
    """The teachers of a base model by name. ``field`` is the job's that names them."""

    def __init__(self, backend: TrainingBackend, student: str, *, field: str) -> None:
        self._backend = backend
        self._samplers = OpenedSamplers(lambda teacher: opened_teacher(backend, student, teacher, field=field))

    async def top_tokens(
        self, teacher: str, tokens: Sequence[int], k: int
    ) -> Sequence[Sequence[tuple[int, float]]]:
        """Return the most likely tokens of a teacher. Raises InvalidJob, CrucibleError."""
        return await self._samplers.ask(teacher, lambda sampler: sampler.top_tokens(tokens, k))

    async def score(self, teacher: str, tokens: Sequence[int]) -> Sequence[float]:
        """Return the log-probabilities of tokens at a teacher. Raises as ``top_tokens``."""
        scores = await self._samplers.ask(teacher, lambda sampler: sampler.score(tokens))
        return checked_scores(scores, tokens, teacher, backend=self._backend.name)

    async def close(self) -> None:
        """Close all samplers."""
        await self._samplers.close()


class TeacherSource(BatchSource):
    """The batches of another source towards the distributions of teachers, one for each file of the data."""

    def __init__(
        self,
        source: BatchSource,
        teachers: Sequence[str],
        top_k: int,
        models: TeacherModels,
        journal: TargetJournal,
    ) -> None:
        self._source = source
        self._teachers = teachers
        self._top_k = top_k
        self._models = models
        self._journal = journal

    @property
    def examples(self) -> int:
        return self._source.examples

    async def batch(self, step: int) -> StepBatch:
        batch = await self._source.batch(step)
        trained = [_trained(datum) for datum in batch.datums]
        kept = await self._journal.reference(step)
        if kept is None:
            targets = await self._asked(batch, trained)
            # what is read again later is what was trained on
            kept = await asyncio.to_thread(targets.packed)
            await self._journal.keep_reference(step, kept)
        return replace(batch, datums=await asyncio.to_thread(self._softened, batch, trained, kept))

    async def connect(self, run: LiveRun, record: RemoteRun) -> None:
        await self._source.connect(run, record)

    def policy_saved(self, policy: PolicyRecord) -> None:
        self._source.policy_saved(policy)

    async def finished(self) -> None:
        await self._source.finished()

    def step_metrics(self, batch: StepBatch, result: StepResult) -> Mapping[str, float]:
        return self._source.step_metrics(batch, result)

    def announcements(self) -> Mapping[str, dict[str, JsonValue]]:
        return self._source.announcements()

    async def result_fields(self) -> dict[str, JsonValue]:
        return await self._source.result_fields()

    async def close(self) -> None:
        await self._models.close()
        await self._source.close()

    async def _asked(self, batch: StepBatch, trained: Sequence[Sequence[int]]) -> SoftTargets:
        origins = batch.origins or [0] * len(batch.datums)
        calls = [
            partial(self._models.top_tokens, self._teachers[origin], _whole(datum), self._top_k)
            for datum, origin in zip(batch.datums, origins, strict=True)
        ]
        answers = await side_by_side(calls, limit=CONCURRENCY)
        return await asyncio.to_thread(self._targets, answers, trained)

    def _targets(
        self, answers: Sequence[Sequence[Sequence[tuple[int, float]]]], trained: Sequence[Sequence[int]]
    ) -> SoftTargets:
        targets = SoftTargets(array("i"), array("f"))
        for answer, places in zip(answers, trained, strict=True):
            for place in places:
                tokens, weights = distribution(answer[place][: self._top_k], self._top_k)
                targets.tokens.extend(tokens)
                targets.weights.extend(weights)
        return targets

    def _softened(self, batch: StepBatch, trained: Sequence[Sequence[int]], kept: bytes) -> list[Datum]:
        k = self._top_k
        targets = SoftTargets.unpacked(kept, k * sum(map(len, trained)), batch.step)
        datums, begin = [], 0
        for datum, places in zip(batch.datums, trained, strict=True):
            weights = datum.loss_inputs["weights"]
            # a token without a weight has targets too, of which none counts
            soft = array("i", (int(token) for token in datum.loss_inputs[TARGETS] for _ in range(k)))
            shares = array("f", bytes(4 * k * len(datum.tokens)))
            for place in places:
                soft[place * k : (place + 1) * k] = targets.tokens[begin : begin + k]
                weight = float(weights[place])
                given = array("f", [weight * share for share in targets.weights[begin : begin + k]])
                shares[place * k : (place + 1) * k] = given
                begin += k
            datums.append(replace(datum, loss_inputs={TARGETS: soft, "weights": shares}))
        return datums


async def opened_teacher(backend: TrainingBackend, student: str, teacher: str, *, field: str) -> TokenSampler:
    """Open the sampler of a teacher.

    Raises:
        InvalidJob: the backend does not have it, or it has other tokens than the student.
        BackendError: the service failed.
    """
    try:
        return await opened_for_tokens(backend, student, teacher, field=field)
    except InvalidJob:
        raise
    except CallerError as error:
        raise InvalidJob.of(field, teacher, str(error.details.get("allowed") or error.message)) from error


def taught(
    source: BatchSource, payload: DistillationStep, backend: TrainingBackend, journal: TargetJournal
) -> TeacherSource:
    """Return the batches of a job of distillation, whose teachers are known by name or path."""
    teachers = [teacher for teacher in payload.teachers() if isinstance(teacher, str)]
    models = TeacherModels(backend, payload.base_model, field="payload.teacher")
    return TeacherSource(source, teachers, payload.top_k, models, journal)


def _trained(datum: Datum) -> list[int]:
    return [place for place, weight in enumerate(datum.loss_inputs["weights"]) if weight]


def _whole(datum: Datum) -> list[int]:
    """The tokens of an example with its last target, which no other token follows."""
    return [*map(int, datum.tokens), int(datum.loss_inputs[TARGETS][-1])]


def distribution(top: Sequence[tuple[int, float]], k: int) -> tuple[list[int], list[float]]:
    """Return the most likely tokens with their probabilities among each other; where there are fewer than k, the
    first again, without a weight."""
    import numpy as np

    logprobs = np.array([logprob for _, logprob in top], dtype=np.float64)
    if not np.isfinite(logprobs).any() or np.isnan(logprobs).any():
        raise MalformedAnswer("a teacher gives no finite log-probability for a token")
    shares = np.exp(logprobs - np.logaddexp.reduce(logprobs))
    missing = k - len(top)
    return [token for token, _ in top] + [top[0][0]] * missing, [*shares.tolist(), *[0.0] * missing]
