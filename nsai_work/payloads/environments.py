"""The environments that a job names: what it learns from, and what it is evaluated on."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Field, model_validator

from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Name, Real, Whole
from nsai_work.payloads.job_inputs import TrainedModel

NamedModel: TypeAlias = Annotated[Name, Field(min_length=1, max_length=1_000)]
"""The name of a base model, or the path of sampling weights."""


class EnvironmentSpec(Record):
    """The source of a run's rewards: an environment by its ``name`` and its settings (``args``), or a plain
    ``reward`` function for the prompts of the job's data. A name is that of an entry point, or
    ``package.module:Name``. ``models`` are those that the environment asks, by its names for them: a base model,
    the path of sampling weights, or the model that another job trains."""

    name: Name | None = Field(default=None, min_length=1, max_length=500)
    args: FiniteObject = Field(default_factory=dict)
    models: dict[Name, NamedModel | TrainedModel] = Field(default_factory=dict, max_length=100)
    reward: Name | None = Field(default=None, min_length=1, max_length=500)

    @model_validator(mode="after")
    def _require_name_or_reward(self) -> "EnvironmentSpec":
        if (self.name is None) == (self.reward is None):
            raise ValueError("set either name, an environment, or reward, a function for the prompts of data")
        if self.reward is not None and self.args:
            raise ValueError("args: a reward function has none; leave them out")
        if self.reward is not None and self.models:
            raise ValueError("models: a reward function asks none; leave them out, or write an environment")
        return self


class TaskSet(Record):
    """Tasks on which a run is evaluated: the first ``limit`` of an environment, each answered ``samples`` times. A
    ``temperature`` of 0 selects the most likely tokens. ``name`` is part of the names of its metrics, if there are
    several sets; by default the last part of the environment's name."""

    name: Name = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$")
    environment: EnvironmentSpec
    limit: Whole = Field(default=100, ge=1, le=1_000_000)
    samples: Whole = Field(default=1, ge=1, le=65_536)
    temperature: Real = Field(default=0.0, ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _with_name(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        environment = value.get("environment")
        if isinstance(environment, str):
            environment = {"name": environment}
        named = environment.name if isinstance(environment, EnvironmentSpec) else None
        if isinstance(environment, Mapping):
            named = environment.get("name")
        # what has no name of an environment is refused below, for that
        last = str(named).replace(":", ".").split(".")[-1] if named else "tasks"
        return {"name": last, **value, "environment": environment}

    @model_validator(mode="after")
    def _require_environment(self) -> "TaskSet":
        if self.environment.name is None:
            raise ValueError("environment.reward: its prompts are eval.data; name an environment here")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: at temperature 0 all are equal; set a temperature, or 1 sample")
        return self
