"""The reads of a payload from other jobs, by field; and the payload with their values in place."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import JsonValue

from crucible.values.record import Record
from crucible.values.scalars import Count
from nsai_work.payloads import (
    CheckpointChoice,
    CommandPayload,
    DataFile,
    DistillationStep,
    EnvironmentSpec,
    EvaluationSpec,
    Inference,
    InitialWeights,
    Payload,
    PreferenceStep,
    ReinforcementStep,
    SavedState,
    TrainedModel,
    TrainingData,
    TrainingStep,
)
from nsai_work.payloads.reinforcement import eval_environment

_JOB_FIELDS: Final = (
    ("data", "job"),
    ("data", "sources", "*", "job"),
    ("data", "sources", "*", "teacher", "job"),
    ("teacher", "job"),
    ("reference", "job"),
    ("eval", "data", "job"),
    ("init_from", "job"),
    ("continue_from", "job"),
    ("model", "job"),
    ("prompt", "options", "model", "job"),
    ("environment", "models", "*", "job"),
    ("eval", "tasks", "*", "environment", "models", "*", "job"),
    ("inputs", "*", "job"),
)
"""Fields of a payload that name another job. ``*`` is any name or index."""


class ReadKind(StrEnum):
    """The kind of content that is read of another job."""

    ROWS = "rows"
    CHECKPOINT = "checkpoint"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class JobRead:
    """A field of a payload that reads what another job makes. ``function`` maps each row."""

    field: str
    job: str
    kind: ReadKind
    checkpoint: CheckpointChoice = "final"
    function: str | None = None


class PinnedRead(Record):
    """The value that a field has read: the path of a checkpoint with its step, or rows with the SHA-256 of their
    lines. ``used`` of them are left by the function, and ``used_sha256`` is that of these."""

    job: str
    path: str | None = None
    step: Count | None = None
    rows: Count | None = None
    sha256: str | None = None
    used: Count | None = None
    used_sha256: str | None = None


def job_reads(payload: Payload) -> list[JobRead]:
    """Return what a payload reads of other jobs."""
    return list(_reads(payload))


def _reads(payload: Payload) -> Iterator[JobRead]:
    if isinstance(payload, TrainingStep):
        yield from _rows_of("payload.data", payload.data)
        if payload.eval is not None and payload.eval.data is not None:
            yield from _rows_of("payload.eval.data", payload.eval.data)
        start = payload.init_from
        if start is not None and start.job is not None:
            yield JobRead("payload.init_from", start.job, ReadKind.CHECKPOINT, start.checkpoint)
        if isinstance(payload, PreferenceStep) and isinstance(payload.reference, SavedState):
            reference = payload.reference
            yield JobRead("payload.reference", reference.job, ReadKind.CHECKPOINT, reference.checkpoint)
        for field, model in {**_teachers(payload), **_asked_models(payload)}.items():
            yield JobRead(field, model.job, ReadKind.MODEL, model.checkpoint)
        going_on = payload.continue_from
        if going_on is not None:
            yield JobRead("payload.continue_from", going_on.job, ReadKind.CHECKPOINT, going_on.checkpoint)
    elif isinstance(payload, Inference):
        if isinstance(payload.model, TrainedModel):
            yield JobRead("payload.model", payload.model.job, ReadKind.MODEL, payload.model.checkpoint)
    elif isinstance(payload, CommandPayload):
        for name, rows in payload.inputs.items():
            yield JobRead(f"payload.inputs.{name}", rows.job, ReadKind.ROWS)


def _teachers(payload: TrainingStep) -> dict[str, TrainedModel]:
    """The teachers that other jobs train, by field."""
    if not isinstance(payload, DistillationStep | ReinforcementStep):
        return {}
    named: dict[str, TrainedModel | str | None] = {}
    if isinstance(payload, DistillationStep):
        named["payload.teacher"] = payload.teacher
    for index, file in enumerate(payload.data.sources):
        named[f"payload.data.sources[{index}].teacher"] = file.teacher
    return {field: teacher for field, teacher in named.items() if isinstance(teacher, TrainedModel)}


def _asked_models(payload: TrainingStep) -> dict[str, TrainedModel]:
    """The models that environments ask and other jobs train, by field."""
    if not isinstance(payload, ReinforcementStep):
        return {}
    return {
        f"{field}.models.{name}": model
        for field, spec in payload.environments().items()
        for name, model in spec.models.items()
        if isinstance(model, TrainedModel)
    }


def _with_models(spec: EnvironmentSpec, field: str, paths: Mapping[str, str]) -> EnvironmentSpec:
    """An environment with paths in the places of other jobs' models."""
    models = {name: paths.get(f"{field}.models.{name}", model) for name, model in spec.models.items()}
    return spec.model_copy(update={"models": models})


def _rows_of(field: str, data: TrainingData) -> Iterator[JobRead]:
    for index, file in enumerate(data.files()):
        if file.job is not None:
            yield JobRead(_place(field, data, index), file.job, ReadKind.ROWS, function=file.map)


def _place(field: str, data: TrainingData, index: int) -> str:
    return f"{field}.sources[{index}]" if data.sources else field


def with_reads(
    payload: Payload, paths: Mapping[str, str], rows: Mapping[str, list[JsonValue]], digests: Mapping[str, str]
) -> Payload:
    """Return the payload with what its fields have read: ``paths`` of checkpoints, models and files of rows, with
    the ``digests`` of these; and the ``rows`` that are arguments."""

    def read(field: str, data: TrainingData) -> TrainingData:
        def file_of(index: int, file: DataFile) -> DataFile:
            place = _place(field, data, index)
            changes: dict[str, object] = {}
            if file.job is not None:
                changes = {"path": paths[place], "sha256": digests[place], "job": None, "map": None}
            if isinstance(file.teacher, TrainedModel):
                changes["teacher"] = paths[f"{place}.teacher"]
            return file.model_copy(update=changes) if changes else file

        return data.with_files([file_of(index, file) for index, file in enumerate(data.files())])

    if isinstance(payload, TrainingStep):
        changes: dict[str, object] = {"data": read("payload.data", payload.data)}
        if payload.eval is not None:
            changes["eval"] = _read_evaluation(payload.eval, read, paths)
        if payload.init_from is not None and payload.init_from.job is not None:
            path, optimizer = paths["payload.init_from"], payload.init_from.optimizer
            changes["init_from"] = InitialWeights(path=path, optimizer=optimizer)
        changes |= {
            name: paths[f"payload.{name}"] for name in ("teacher", "reference") if f"payload.{name}" in paths
        }
        if isinstance(payload, ReinforcementStep) and payload.environment is not None:
            changes["environment"] = _with_models(payload.environment, "payload.environment", paths)
        if payload.continue_from is not None:
            path = paths["payload.continue_from"]
            changes["continue_from"] = payload.continue_from.model_copy(update={"path": path})
        return payload.model_copy(update=changes)
    if isinstance(payload, Inference) and isinstance(payload.model, TrainedModel):
        return payload.model_copy(update={"model": paths["payload.model"]})
    if isinstance(payload, CommandPayload) and payload.inputs:
        found = {name: rows[f"payload.inputs.{name}"] for name in payload.inputs}
        return payload.model_copy(update={"arguments": {**payload.arguments, **found}, "inputs": {}})
    return payload


def _read_evaluation(
    spec: EvaluationSpec, read: Callable[[str, TrainingData], TrainingData], paths: Mapping[str, str]
) -> EvaluationSpec:
    tasks = [
        each.model_copy(update={"environment": _with_models(each.environment, eval_environment(number), paths)})
        for number, each in enumerate(spec.tasks)
    ]
    data = None if spec.data is None else read("payload.eval.data", spec.data)
    return spec.model_copy(update={"tasks": tuple(tasks), "data": data})


def jobs_read(payload: dict[str, Any]) -> list[str]:
    """Return the names of the jobs that a payload, given as JSON, reads; without parsing it."""
    names: list[str] = []

    def note(name: str) -> str:
        names.append(name)
        return name

    with_renamed_jobs(payload, note)
    return names


def with_renamed_jobs(payload: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Return a payload, given as JSON, with other names of the jobs that it reads."""
    for field in _JOB_FIELDS:
        if payload.get(field[0]):
            payload = _renamed(payload, field, rename)
    return payload


def _renamed(value: Any, field: tuple[str, ...], rename: Callable[[str], str]) -> Any:
    if not field:
        return rename(value) if isinstance(value, str) else value
    head, rest = field[0], field[1:]
    if head == "*" and isinstance(value, list):
        return [_renamed(item, rest, rename) for item in value]
    if isinstance(value, dict):
        names = [*value] if head == "*" else [head] if head in value else []
        return {**value, **{name: _renamed(value[name], rest, rename) for name in names}}
    return value
