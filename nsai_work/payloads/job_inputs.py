"""A job's inputs from other jobs: their rows, their checkpoints, their models.

A submission adds the jobs that are named to ``constraints.depends_on``. What was read is pinned at the first
attempt, so that every attempt reads the same.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, model_validator

from crucible.values.record import Record
from crucible.values.scalars import Name, Whole

CheckpointChoice: TypeAlias = (
    Literal["final", "best", "latest"] | Annotated[int, Field(ge=1, lt=2**63, strict=True)]
)
"""A checkpoint of a training job: its last, the best by its policy, the newest, or that of a step."""

FINAL: Final = "final"


class JobRows(Record):
    """The rows that another job makes: the answers of an inference job, or the list that a function returns."""

    job: Name = Field(min_length=1, max_length=64)


class TrainedModel(Record):
    """The model that another job trains: the weights of one of its checkpoints."""

    job: Name = Field(min_length=1, max_length=64)
    checkpoint: CheckpointChoice = FINAL


class SavedState(Record):
    """A training state that another job saves, by the choice of its checkpoint."""

    job: Name = Field(min_length=1, max_length=64)
    checkpoint: CheckpointChoice = FINAL


class InitialWeights(Record):
    """The state from which a training run starts, with a new axis of steps: a checkpoint by its ``path``, or one
    that another job saves. With ``optimizer``, the state of the optimizer is restored too."""

    path: Name | None = Field(default=None, min_length=1, max_length=1_000)
    job: Name | None = Field(default=None, min_length=1, max_length=64)
    checkpoint: CheckpointChoice = FINAL
    optimizer: bool = Field(default=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _require_path_or_job(self) -> "InitialWeights":
        if (self.path is None) == (self.job is None):
            raise ValueError("set either path, that of a checkpoint, or job")
        if self.path is not None and self.checkpoint != FINAL:
            raise ValueError("checkpoint: a path names its checkpoint; leave it out")
        return self


class Continuation(Record):
    """The checkpoint of another job from which a training run goes on: its optimizer, data and step numbers.
    ``step`` is the number of steps in it."""

    job: Name = Field(min_length=1, max_length=64)
    checkpoint: CheckpointChoice = FINAL
    step: Whole = Field(ge=1, lt=2**63)
    path: Name | None = Field(default=None, min_length=1, max_length=1_000)


def without_model(value: object) -> object:
    """An inference payload whose prompt names the model of another job, ``options: {model: {job: ID}}``, with that
    as the payload's own ``model``."""
    if not isinstance(value, Mapping) or not isinstance(prompt := value.get("prompt"), Mapping):
        return value
    options = prompt.get("options")
    if not isinstance(options, Mapping) or not isinstance(model := options.get("model"), Mapping):
        return value
    if value.get("model") is not None:
        raise ValueError("prompt.options.model: model is set too; leave one of them out")
    rest = {name: item for name, item in options.items() if name != "model"}
    return {**value, "prompt": {**prompt, "options": rest}, "model": model}
