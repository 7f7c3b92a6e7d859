"""The payload of distillation: training towards the distribution of a teacher."""

from typing import Literal

from pydantic import Field, model_validator

from crucible.values.scalars import Name, Whole
from nsai_work.payloads.job_inputs import TrainedModel
from nsai_work.payloads.kinds import TrainingStep


class DistillationStep(TrainingStep):
    """A training run whose targets come from a teacher: at each trained token of the data, the
    ``top_k`` most likely tokens of the teacher, each with its probability among them as its weight.

    ``teacher`` is a model of the job's backend: a base model, saved weights by their path, or the model of another
    job. Each of the ``data.sources`` may have its own. Evaluations measure the cross entropy of their own tokens.
    """

    method: Literal["distill"] = "distill"
    teacher: TrainedModel | Name | None = None
    top_k: Whole = Field(default=20, ge=1, le=320)

    @model_validator(mode="after")
    def _require_own_loss(self) -> "DistillationStep":
        if self.objective is not None or self.loss_fn != "cross_entropy" or self.loss_fn_config:
            raise ValueError(
                "method: distill has a loss of its own; leave loss_fn, loss_fn_config and objective out"
            )
        return self

    @model_validator(mode="after")
    def _require_teacher(self) -> "DistillationStep":
        for index, teacher in enumerate(self.teachers()):
            if teacher is None:
                field = f"data.sources[{index}].teacher" if self.data.sources else "teacher"
                raise ValueError(
                    f"{field}: name a base model, the path of saved weights, or the job that trains it"
                )
        if self.data.sources and self.teacher is not None and all(file.teacher for file in self.data.sources):
            raise ValueError("teacher: each of data.sources has its own; leave this one out")
        return self

    def teachers(self) -> tuple[TrainedModel | str | None, ...]:
        """Return the teacher of each file of the data."""
        return tuple(file.teacher or self.teacher for file in self.data.files())
