"""Evaluation of a run on examples that it does not train on: their choice, its schedule and its metrics.

An evaluation is a number of forward passes, journaled like steps, in the order of the run's operations. The intents
of its passes stay open until all are finished and the evaluation is recorded, so that a new owner repeats them.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import JsonValue

from crucible.training import ForwardResult
from nsai_work.data.dataset import load_data, pin_data
from nsai_work.data.held_out import split_sources
from nsai_work.data.rendering.datums import Datums, JoinedDatums
from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.journal import EvaluationRecord
from nsai_work.payloads import REWARD, EvaluationSpec, PreferenceStep, ReinforcementStep, TrainingData, TrainingStep
from nsai_work.policies import EVAL_LOSS, EVAL_PREFIX, EVAL_REWARD, StopDecision
from nsai_work.training.distributions import METRICS as DISTRIBUTION_METRICS
from nsai_work.training.objectives import Objective
from nsai_work.training.plan import Plan
from nsai_work.training.sources.batches import StepBatch
from nsai_work.training.sources.preference import METRICS, ReferenceSource

T = TypeVar("T")

EVALUATED_PROMPTS: Final = "data"
"""The name of the prompts of ``eval.data`` among the sets of tasks."""
TASK_METRICS: Final = ("reward", "reward_std", "rollouts_failed", "turns", "answer_tokens", "truncated")
"""The metrics of an evaluation on tasks, and of each of its sets if there are several."""

ROWS_PER_PASS: Final = 64
"""The number of examples in a forward pass of an evaluation."""


def pin_examples(data: TrainingData, spec: EvaluationSpec | None) -> tuple[TrainingData, EvaluationSpec | None]:
    """Validate and pin the files of a training job, and check its split; blocking.

    Raises:
        InvalidJob, DataChanged: as ``pin_data`` and ``split_sources``.
    """
    pinned = pin_data(data)
    if spec is None:
        return pinned, None
    if spec.data is not None:
        return pinned, spec.model_copy(update={"data": read_examples(pin_data, spec.data)})
    if spec.split is not None and all(file.job is None for file in pinned.files()):
        split_sources([load_data(pinned, index).examples for index in range(len(pinned.files()))], spec.split)
    return pinned, spec


def read_examples(read: Callable[[TrainingData], T], source: TrainingData) -> T:
    """Return what ``read`` makes of the evaluation's data. Its errors name the field of the evaluation."""
    try:
        return read(source)
    except (InvalidJob, DataChanged) as error:
        field = str(error.details.get("field", "")).replace("payload.data", "payload.eval.data")
        message = error.message.replace("payload.data", "payload.eval.data", 1)
        raise type(error)(message, details={**error.details, "field": field}) from error


class TaskEvaluation(ABC):
    """Evaluations of a run by the rewards of rollouts on tasks, each in the background of the run's operations."""

    @abstractmethod
    def begin(self, step: int) -> None:
        """Begin the evaluation of the weights after a step, once they are saved. No effect if it has begun."""

    @abstractmethod
    def skip(self, step: int) -> None:
        """The evaluation of a step is recorded already."""

    @abstractmethod
    async def result(self, step: int) -> EvaluationRecord:
        """Return the evaluation of a step, which has begun. Raises CrucibleError: the service failed."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """The result of a forward pass of an evaluation: sums over its examples. ``weight`` is what the means are over:
    loss weights, or examples if an objective computed them."""

    rows: int
    tokens: int
    weight: float
    sums: Mapping[str, float]


class EvaluationSource:
    """The examples of an evaluation, in passes of ``ROWS_PER_PASS``."""

    def __init__(
        self,
        datums: Datums | JoinedDatums,
        indexes: Sequence[int],
        *,
        data: str = "data",
        reference: ReferenceSource | None = None,
        overlap: int = 0,
    ) -> None:
        """``overlap`` is the number of these examples that are trained on too."""
        self._datums = datums
        self._overlap = overlap
        self._indexes = indexes
        self._data = data
        self._reference = reference

    @property
    def passes(self) -> int:
        """The number of forward passes in an evaluation."""
        return math.ceil(len(self._indexes) / ROWS_PER_PASS)

    def announcements(self) -> Mapping[str, dict[str, JsonValue]]:
        """The event about examples that are trained on too, if there are any."""
        found: dict[str, JsonValue] = {"rows": self._overlap, "of": len(self._indexes)}
        return {"training.overlap": found} if self._overlap else {}

    def result_fields(self) -> dict[str, JsonValue]:
        """The entries about these examples in the job's result."""
        return {"overlapping_rows": self._overlap}

    async def batch(self, step: int, number: int) -> StepBatch:
        """Return the examples of a pass, from 0, of the evaluation at a step."""
        indexes = self._indexes[number * ROWS_PER_PASS :][:ROWS_PER_PASS]
        rendered = self._datums.are_rendered(indexes)
        datums = self._datums.batch(indexes) if rendered else await asyncio.to_thread(self._datums.batch, indexes)
        references = () if self._reference is None else self._reference.of(self._data, indexes)
        return StepBatch(step, 0, number * ROWS_PER_PASS, datums, references=references)


def score(batch: StepBatch, forward: ForwardResult, objective: Objective | None) -> PassResult:
    """Return the sums of a pass; blocking. Raises as ``Objective.evaluate``."""
    tokens = sum(len(datum.tokens) for datum in batch.datums)
    if objective is not None:
        value = objective.evaluate(batch.for_objective, forward)
        sums = {EVAL_LOSS: value.loss, **{EVAL_PREFIX + name: each for name, each in value.metrics.items()}}
        return PassResult(batch.rows, tokens, batch.rows, {name: each * batch.rows for name, each in sums.items()})
    weights = [datum.loss_inputs["weights"] for datum in batch.datums]
    products = (
        weight * logprob
        for each, logprobs in zip(weights, forward.logprobs, strict=True)
        for weight, logprob in zip(each, logprobs, strict=True)
        # the log-probability of a token that does not count may be anything
        if weight
    )
    loss = -math.fsum(products)
    return PassResult(batch.rows, tokens, math.fsum(w for each in weights for w in each), {EVAL_LOSS: loss})


def evaluation_of(scores: Sequence[PassResult], step: int, generation: int) -> EvaluationRecord:
    """Return the evaluation that passes come to. A metric that is not finite is left out."""
    weight = math.fsum(score.weight for score in scores)
    names = sorted({name for score in scores for name in score.sums})
    means = {name: math.fsum(score.sums.get(name, 0.0) for score in scores) / weight for name in names}
    return EvaluationRecord(
        step=step,
        generation=generation,
        metrics={name: mean for name, mean in means.items() if math.isfinite(mean)},
        rows=sum(score.rows for score in scores),
        tokens=sum(score.tokens for score in scores),
    )


def evaluation_metrics(payload: TrainingStep) -> tuple[str, ...]:
    """Return the metrics that the evaluations of a job give."""
    if payload.eval is None:
        return ()
    if isinstance(payload, ReinforcementStep):
        names = [EVALUATED_PROMPTS] if payload.eval.data is not None else []
        names += [each.name for each in payload.eval.tasks]
        of_sets = [f"{name}.{metric}" for name in names for metric in TASK_METRICS] if len(names) > 1 else []
        return tuple(EVAL_PREFIX + name for name in (*TASK_METRICS, *of_sets))
    return (EVAL_LOSS, *(EVAL_PREFIX + name for name in objective_metrics(payload)))


def objective_metrics(payload: TrainingStep) -> tuple[str, ...]:
    """Return the metrics that the method of a job adds to those of the backend."""
    if isinstance(payload, ReinforcementStep):
        return (REWARD,)
    if payload.objective is not None:
        return DISTRIBUTION_METRICS.get(payload.objective.name, ())
    return METRICS if isinstance(payload, PreferenceStep) else ()


def early_stop(payload: TrainingStep, evaluations: Sequence[EvaluationRecord]) -> StopDecision | None:
    """Return where early stopping ends the run; None if it goes on. The journal alone decides, so that every owner
    stops at the same step."""
    if payload.early_stopping is None:
        return None
    return payload.early_stopping.stop(stopping_values(payload, evaluations))


def stopping_values(payload: TrainingStep, evaluations: Sequence[EvaluationRecord]) -> list[tuple[int, float]]:
    """Return the values of the metric of early stopping by step."""
    assert payload.early_stopping is not None
    name = payload.early_stopping.metric
    return [(record.step, record.metrics[name]) for record in evaluations if name in record.metrics]


def last_step(plan: Plan, payload: TrainingStep, evaluations: Sequence[EvaluationRecord]) -> int:
    """Return the last step of a job: that of its plan, or the one at which it stopped early."""
    stop = early_stop(payload, evaluations)
    return plan.total_steps if stop is None else stop.step


def require_stopping_metric(payload: TrainingStep, record: EvaluationRecord) -> None:
    """Check that early stopping has its metric. Raises InvalidJob: the evaluation does not give it."""
    if isinstance(payload, ReinforcementStep):
        # its names are checked at submit; without a rollout that has a reward there is no mean
        return
    if payload.early_stopping is not None and payload.early_stopping.metric not in record.metrics:
        raise InvalidJob.of(
            "payload.early_stopping.metric",
            payload.early_stopping.metric,
            f"the evaluation gives {', '.join(sorted(record.metrics)) or 'no finite number'}",
        )


def result_fields(payload: TrainingStep, evaluations: Sequence[EvaluationRecord]) -> dict[str, JsonValue]:
    """Return what the job's result says about its evaluations, and why it stopped early."""
    if not evaluations:
        return {}
    last = evaluations[-1]
    rewarded = isinstance(payload, ReinforcementStep)
    name, kind, sign = (EVAL_REWARD, "reward", -1) if rewarded else (EVAL_LOSS, "loss", 1)
    best = min(evaluations, key=lambda record: (sign * record.metrics.get(name, sign * math.inf), record.step))
    fields: dict[str, JsonValue] = {
        f"eval_{kind}": last.metrics.get(name),
        f"best_eval_{kind}": best.metrics.get(name),
        "best_eval_step": best.step,
        f"first_eval_{kind}": evaluations[0].metrics.get(name),
        "evaluations": len(evaluations),
        "evaluation": {"rows": last.rows, "tokens": last.tokens, "metrics": {**last.metrics}},
    }
    stop = early_stop(payload, evaluations)
    if stop is not None and payload.early_stopping is not None:
        metric, patience = payload.early_stopping.metric, payload.early_stopping.patience
        fields["stopped"] = (
            f"early_stopping at step {stop.step}: {metric} was not better than {stop.best:.6g} of step "
            f"{stop.best_step} in {patience} evaluations"
        )
    return fields
