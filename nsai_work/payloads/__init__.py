"""Payloads of jobs: what each kind of job consists of, and the validation of one."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from pydantic import ValidationError

from crucible.errors import InvalidRequest
from crucible.values.suggestions import known_names
from nsai_work.errors import InvalidJob
from nsai_work.payloads.data import DataFile, DataSource, Reduction, RowFormat, TrainingData, TrainOn
from nsai_work.payloads.distillation import DistillationStep
from nsai_work.payloads.environments import EnvironmentSpec, TaskSet
from nsai_work.payloads.job_inputs import (
    CheckpointChoice,
    Continuation,
    InitialWeights,
    JobRows,
    SavedState,
    TrainedModel,
)
from nsai_work.payloads.kinds import (
    BASE_REFERENCE,
    MAX_STEPS,
    CommandPayload,
    Composite,
    EvaluationSpec,
    Inference,
    JobKind,
    JobKindName,
    LearningRateSchedule,
    ObjectiveSpec,
    PreferenceStep,
    SinkSpec,
    TrainingStep,
    without_callbacks,
)
from nsai_work.payloads.reinforcement import (
    REWARD,
    TEACHER_LOSS,
    ReferencePenalty,
    ReinforcementStep,
    RolloutSampling,
    TeacherTargets,
)

__all__ = [
    "BASE_REFERENCE",
    "MAX_STEPS",
    "METHODS",
    "PAYLOADS",
    "REWARD",
    "TEACHER_LOSS",
    "CheckpointChoice",
    "CommandPayload",
    "Composite",
    "Continuation",
    "DataFile",
    "DataSource",
    "DistillationStep",
    "EnvironmentSpec",
    "EvaluationSpec",
    "Inference",
    "InitialWeights",
    "JobKind",
    "JobKindName",
    "JobRows",
    "LearningRateSchedule",
    "ObjectiveSpec",
    "Payload",
    "PreferenceStep",
    "Reduction",
    "ReferencePenalty",
    "ReinforcementStep",
    "RolloutSampling",
    "RowFormat",
    "SavedState",
    "SinkSpec",
    "TaskSet",
    "TeacherTargets",
    "TrainOn",
    "TrainedModel",
    "TrainingData",
    "TrainingStep",
    "parse_payload",
    "without_callbacks",
]

METHODS: Final[Mapping[object, type[TrainingStep]]] = {
    "sft": TrainingStep,
    "dpo": PreferenceStep,
    "distill": DistillationStep,
    "rl": ReinforcementStep,
}
"""The payloads of training by ``method``; ``sft`` is the default."""

Payload: TypeAlias = TrainingStep | Inference | CommandPayload | Composite

PAYLOADS: dict[JobKind, type[Payload]] = {
    JobKind.TRAINING_STEP: TrainingStep,
    JobKind.INFERENCE: Inference,
    JobKind.TOOL_CALL: CommandPayload,
    JobKind.EXPERIMENT_STEP: CommandPayload,
    JobKind.WORKFLOW_STEP: CommandPayload,
    JobKind.BACKEND_COMMAND: CommandPayload,
    JobKind.COMPOSITE: Composite,
}


def parse_payload(kind: JobKind, payload: object) -> Payload:
    """Validate the payload of a job kind.

    Raises:
        InvalidJob: the payload is invalid; the error names each field under ``payload``.
    """
    model = PAYLOADS[kind]
    if model is TrainingStep:
        model = _training_model(payload)
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        raise InvalidJob.from_validation(error, model, prefix="payload") from None
    except InvalidRequest as error:
        raise InvalidJob(f"payload: {error.message}", details=error.details) from error


def _training_model(payload: object) -> type[TrainingStep]:
    if isinstance(payload, TrainingStep):
        return type(payload)
    method = payload.get("method", "sft") if isinstance(payload, Mapping) else "sft"
    if not isinstance(method, str) or method not in METHODS:
        raise InvalidJob.of("payload.method", method, known_names(str(method), [str(name) for name in METHODS]))
    return METHODS[method]
