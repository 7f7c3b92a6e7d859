"""The metrics that a training job names, before it is stored: some step or evaluation of it gives each of them."""

import re
from collections.abc import Sequence
from typing import Final

from crucible.backend import TrainingBackend
from crucible.values.suggestions import known_names
from nsai_work.errors import InvalidJob
from nsai_work.payloads import ReinforcementStep, TrainingStep
from nsai_work.policies import EVAL_LOSS, EVAL_PREFIX, EVAL_REWARD, LOSS
from nsai_work.training.evaluation import evaluation_metrics, objective_metrics

_HELD_OUT: Final = re.compile(r"(val|valid|validation|eval|evaluation|dev|test|held_?out)[._/-]")
"""The begin of a name of a metric of held-out data, as other trainers have them."""


def check_metrics(kind: type[TrainingBackend], payload: TrainingStep) -> None:
    """Check the metrics that a job compares by. Raises InvalidJob, which names all that the job has."""
    evaluated = evaluation_metrics(payload)
    metrics = (LOSS, *kind.metrics, *objective_metrics(payload), *evaluated)
    _check_metric(payload, "checkpoint_policy.best_metric", payload.checkpoint_policy.best_metric, metrics)
    if payload.early_stopping is not None:
        _check_metric(payload, "early_stopping.metric", payload.early_stopping.metric, evaluated)


def _check_metric(payload: TrainingStep, field: str, metric: str, metrics: Sequence[str]) -> None:
    if metric in metrics:
        return
    are, name = "no step or evaluation of this job gives it; metrics are:", metric
    held_out = _HELD_OUT.match(metric)
    if held_out is not None:
        # not the nearest name alone: for val_loss that is the loss of training
        name = EVAL_PREFIX + metric[held_out.end() :]
        if payload.eval is None:
            usual = EVAL_REWARD if isinstance(payload, ReinforcementStep) else EVAL_LOSS
            raise InvalidJob.of(
                f"payload.{field}",
                metric,
                f"{usual} is given by the evaluations of a job with eval; {are} {', '.join(metrics)}",
            )
    raise InvalidJob.of(f"payload.{field}", metric, known_names(name, metrics, are=are))
