"""The loss of a training job, and what reinforcement learning needs beside it, before the job is stored."""

from crucible.backend import TrainingBackend
from crucible.environments.registry import check_target
from crucible.errors import InvalidRequest, Unsupported
from crucible.values.suggestions import known_names
from nsai_work.errors import InvalidJob
from nsai_work.payloads import ReinforcementStep, TrainingStep


def check_loss(kind: type[TrainingBackend], backend: str, payload: TrainingStep) -> None:
    """Check the loss of a job against what the backend's class says of itself.

    Raises:
        Unsupported: the backend has no reinforcement learning.
        InvalidJob: it lacks the loss, or there is no such environment.
    """
    if isinstance(payload, ReinforcementStep):
        _check_reinforcement(kind, backend, payload)
    elif kind.losses and payload.loss_fn not in kind.losses:
        are = f"losses of {backend!r} for texts and conversations:"
        raise InvalidJob.of("payload.loss_fn", payload.loss_fn, known_names(payload.loss_fn, kind.losses, are=are))


def _check_reinforcement(kind: type[TrainingBackend], backend: str, payload: ReinforcementStep) -> None:
    if not kind.policy_losses:
        raise Unsupported(f"payload.method: {backend!r} does not train by reinforcement learning", backend=backend)
    if payload.teacher is None and payload.loss_fn not in kind.policy_losses:
        are = f"losses of {backend!r} for rl:"
        named = known_names(payload.loss_fn, kind.policy_losses, are=are)
        raise InvalidJob.of("payload.loss_fn", payload.loss_fn, named)
    specs = [("environment", payload.environment)]
    specs += [
        (f"eval.tasks[{number}].environment", each.environment)
        for number, each in enumerate(payload.eval.tasks if payload.eval is not None else ())
    ]
    for field, spec in specs:
        for key, target in () if spec is None else (("name", spec.name), ("reward", spec.reward)):
            try:
                if target is not None:
                    check_target(f"{field}.{key}", target)
            except InvalidRequest as error:
                raise InvalidJob(f"payload.{error.message}", details=error.details) from error
