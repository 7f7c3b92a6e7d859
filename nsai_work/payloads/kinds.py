"""The payload models of each kind of job."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from crucible import Prompt
from crucible.backend import Command
from crucible.recovery import RecoveryPolicy
from crucible.training import LoraSpec, OptimizerSpec, RunSpec
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record, merged_over
from crucible.values.scalars import Name, Real, Text, Whole
from nsai_work.payloads.data import DataFile, DataSource, TrainingData
from nsai_work.payloads.environments import TaskSet
from nsai_work.payloads.job_inputs import (
    Continuation,
    InitialWeights,
    JobRows,
    SavedState,
    TrainedModel,
    without_model,
)
from nsai_work.policies import EVAL_PREFIX, CheckpointPolicy, EarlyStopping

MAX_STEPS = 1_000_000_000

BASE_REFERENCE: Final = "base"
"""The name of the base model as a reference."""

JOB_RECOVERY: Final = RecoveryPolicy(enabled=True, backoff_ms=1_000)
"""The default recovery policy of a job. In the class's own defaults, for loops without a job, recovery is off."""

LossSetting: TypeAlias = Annotated[Name, Field(min_length=1, max_length=200)]


def without_callbacks(policy: RecoveryPolicy) -> RecoveryPolicy:
    """Return the policy of a job, which is stored. Raises ValueError for functions, which cannot be."""
    for name in ("on_recovery", "on_failure"):
        if getattr(policy, name) is not None:
            raise ValueError(f"{name}: a function cannot be stored with a job; follow the job's events instead")
    return policy


JobRecovery: TypeAlias = Annotated[RecoveryPolicy, AfterValidator(without_callbacks), merged_over(JOB_RECOVERY)]


JobKindName: TypeAlias = Literal[
    "training_step", "inference", "tool_call", "experiment_step", "workflow_step", "backend_command", "composite"
]


class JobKind(StrEnum):
    """The kind of a job. The names are shared with the Elixir implementation."""

    TRAINING_STEP = "training_step"
    INFERENCE = "inference"
    TOOL_CALL = "tool_call"
    EXPERIMENT_STEP = "experiment_step"
    WORKFLOW_STEP = "workflow_step"
    BACKEND_COMMAND = "backend_command"
    COMPOSITE = "composite"


class EvaluationSpec(Record):
    """Evaluation of a training run on what it does not train on: before the first step, every ``every`` steps, and
    after the last. Examples are those of ``data``, or a ``split`` of the training data: about this part of its
    rows, selected by a hash of their content, and the same on every machine. Reinforcement learning is evaluated by
    the rewards of ``tasks``, or of the prompts of ``data``."""

    every: Whole = Field(default=100, ge=1, le=MAX_STEPS)
    data: TrainingData | None = None
    split: Real | None = Field(default=None, gt=0, lt=1)
    tasks: tuple[TaskSet, ...] = Field(default=(), max_length=64)

    @model_validator(mode="after")
    def _require_examples(self) -> "EvaluationSpec":
        if (self.data is not None and self.split is not None) or not (self.data or self.split or self.tasks):
            raise ValueError("give either data, a file, or split, a part of the training data; of method rl tasks")
        if self.data is not None and self.data.sources:
            raise ValueError("data: an evaluation has one file; give its path")
        names = [each.name for each in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"tasks: each needs a name of its own; these are {', '.join(names)}")
        return self


class LearningRateSchedule(Record):
    """Learning-rate schedule: a linear warm-up from 0 over ``warmup_steps``, then constant, or decaying to 0, which
    it would reach one step after the last. It begins after ``from_step``, which is that of a continued run."""

    shape: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Whole = Field(default=0, ge=0, le=MAX_STEPS)
    from_step: Whole = Field(default=0, ge=0, le=MAX_STEPS)


class ObjectiveSpec(Record):
    """A loss that the driver computes from the log-probabilities of a forward pass: the name of an entry point in
    the group ``nsai_work.objectives``, and the settings passed to its function by keyword."""

    name: Name = Field(min_length=1, max_length=200)
    settings: FiniteObject = Field(default_factory=dict)


class SinkSpec(Record):
    """A place to which a run's metrics are written: the name of a sink, of this package or of an entry point in the
    group ``nsai_work.sinks``, and its settings."""

    sink: Name = Field(min_length=1, max_length=200)
    settings: FiniteObject = Field(default_factory=dict)


class TrainingStep(Record):
    """A training run of ``max_steps`` optimizer steps or ``epochs`` over the data, whichever is shorter.

    ``seed`` fixes the order of the data, and the adapter's initial weights unless ``lora.seed`` is set.
    ``pipeline_depth`` is the maximum number of optimizer steps in flight at the service. ``max_tokens`` is the
    length of an example in tokens of the model's tokenizer, as far as the model's context allows. ``recovery`` is
    merged over ``JOB_RECOVERY``. With an ``objective``, each step's loss is computed by the driver, and ``loss_fn``
    stays ``cross_entropy``. ``early_stopping`` may end the run before its last step. ``init_from`` is the state of
    an earlier run from which this one starts. ``continue_from`` is that with which it goes on: ``max_steps``
    and the steps of the schedule count from the beginning of the first run.
    """

    method: Literal["sft", "dpo", "distill", "rl"] = "sft"
    base_model: Name = Field(min_length=1, max_length=1_000)
    data: TrainingData
    lora: LoraSpec = LoraSpec()
    loss_fn: Name = Field(default="cross_entropy", min_length=1, max_length=200)
    loss_fn_config: dict[LossSetting, Real] = Field(default_factory=dict)
    objective: ObjectiveSpec | None = None
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: LearningRateSchedule = LearningRateSchedule()
    batch_size: Whole = Field(default=32, ge=1, le=65_536)
    max_steps: Whole | None = Field(default=None, ge=1, le=MAX_STEPS)
    epochs: Whole | None = Field(default=None, ge=1, le=1_000_000)
    seed: Whole = Field(default=0, ge=0, lt=2**31)
    max_tokens: Whole = Field(default=4096, ge=2, le=100_000_000)
    pipeline_depth: Whole | None = Field(default=None, ge=1, le=64)
    eval: EvaluationSpec | None = None
    early_stopping: EarlyStopping | None = None
    init_from: InitialWeights | None = None
    continue_from: Continuation | None = None
    checkpoint_policy: CheckpointPolicy = CheckpointPolicy()
    recovery: JobRecovery = JOB_RECOVERY
    sinks: tuple[SinkSpec, ...] = Field(default=(), max_length=16)

    @field_validator("sinks")
    @classmethod
    def _each_once(cls, value: tuple[SinkSpec, ...]) -> tuple[SinkSpec, ...]:
        names = [spec.sink for spec in value]
        if len(set(names)) != len(names):
            raise ValueError(f"each sink can be named once; these are {', '.join(names)}")
        return value

    @model_validator(mode="after")
    def _require_one_loss(self) -> "TrainingStep":
        if self.objective is not None and (self.loss_fn != "cross_entropy" or self.loss_fn_config):
            raise ValueError("objective: it takes the place of the loss; leave loss_fn and loss_fn_config out")
        return self

    @model_validator(mode="after")
    def _require_steps_of_mixture(self) -> "TrainingStep":
        if self.data.sources and (self.max_steps is None or self.epochs is not None):
            raise ValueError("data.sources: a mixture has no end; set max_steps, and leave epochs out")
        return self

    @model_validator(mode="after")
    def _require_steps_to_go_on(self) -> "TrainingStep":
        start = self.continue_from
        if start is None:
            if self.schedule.from_step:
                raise ValueError("schedule.from_step: only a run that continues another one has it; leave it out")
            return self
        if self.init_from is not None:
            raise ValueError("continue_from: it has the weights too; leave init_from out")
        if self.max_steps is None or self.epochs is not None or self.max_steps <= start.step:
            raise ValueError(f"max_steps: set it to more than {start.step}, the steps so far; leave epochs out")
        begins = self.schedule.from_step
        if begins > start.step:
            raise ValueError(f"schedule.from_step: at most {start.step}, the steps so far")
        decays = self.schedule.shape != "constant" or begins + self.schedule.warmup_steps > start.step
        if decays and begins != start.step:
            raise ValueError(
                f"schedule: that of the first {start.step} steps has run to its end, which would move; "
                "give another for the steps that follow (nsai-work extend --schedule)"
            )
        return self

    @model_validator(mode="after")
    def _require_evaluation(self) -> "TrainingStep":
        if self.early_stopping is not None and self.eval is None:
            raise ValueError("early_stopping: it needs evaluations; add eval, with data or a split")
        if self.eval is not None and self.eval.tasks and self.method != "rl":
            raise ValueError(f"eval.tasks: {self.method} is evaluated on examples; give eval.data, or a split")
        return self

    @model_validator(mode="after")
    def _require_rows_of_method(self) -> "TrainingStep":
        held_out = self.eval.data if self.eval is not None else None
        formats = [file.format for data in (self.data, held_out) if data is not None for file in data.files()]
        if self.method == "dpo" and set(formats) != {"preference"}:
            raise ValueError("data.format: dpo trains on preferences; leave it out, or set preference")
        if self.method != "dpo" and "preference" in formats:
            raise ValueError("data.format: preference is the form of method dpo; sft does not train on it")
        if self.method not in ("distill", "rl") and any(file.teacher is not None for file in self.data.sources):
            raise ValueError("data.sources: only methods distill and rl have a teacher; leave it out")
        return self

    @property
    def is_best_by_evaluation(self) -> bool:
        """Checkpoints are compared by a metric of the evaluations. Each evaluated step is then saved."""
        return self.checkpoint_policy.best_metric.startswith(EVAL_PREFIX)

    @property
    def needs_forward(self) -> str | None:
        """The field that needs forward passes of the backend; None if none does."""
        if self.objective is not None:
            return "objective"
        return None if self.eval is None else "eval"

    def run_spec(self, user_metadata: dict[str, str] | None = None) -> RunSpec:
        """Return the specification of the remote run."""
        lora = self.lora if self.lora.seed is not None else self.lora.model_copy(update={"seed": self.seed})
        return RunSpec(base_model=self.base_model, lora=lora, user_metadata=user_metadata or {})


class PreferenceStep(TrainingStep):
    """A training run by direct preference optimization: the data are pairs of a chosen and a rejected answer.

    ``batch_size`` and evaluations count pairs. ``beta`` is how closely the model stays to the ``reference``: the
    base model, or a saved training state, by its path or by the job that saves it.
    """

    method: Literal["dpo"] = "dpo"
    beta: Real = Field(default=0.1, gt=0, le=1_000)
    reference: SavedState | Annotated[Name, Field(min_length=1, max_length=1_000)] = BASE_REFERENCE

    @model_validator(mode="before")
    @classmethod
    def _with_preferences(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        found = {**value, "data": _as_preferences(value.get("data"))}
        held_out = value.get("eval")
        if isinstance(held_out, Mapping) and held_out.get("data") is not None:
            found["eval"] = {**held_out, "data": _as_preferences(held_out["data"])}
        return found

    @model_validator(mode="after")
    def _require_own_loss(self) -> "PreferenceStep":
        if self.objective is not None or self.loss_fn != "cross_entropy" or self.loss_fn_config:
            raise ValueError("method: dpo has a loss of its own; leave loss_fn, loss_fn_config and objective out")
        held_out = self.eval.data if self.eval is not None else None
        if any(data is not None and data.reduction != "none" for data in (self.data, held_out)):
            raise ValueError(
                "data.reduction: dpo compares whole answers, by the sums of their tokens; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _require_answers(self) -> "PreferenceStep":
        held_out = self.eval.data if self.eval is not None else None
        for field, data in (("data", self.data), ("eval.data", held_out)):
            if data is not None and data.train_on not in ("all_assistant_messages", "last_assistant_message"):
                raise ValueError(f"{field}.train_on: dpo trains on the answers of its pairs; leave it out")
        return self

    @property
    def needs_forward(self) -> str | None:
        return "method"


class Inference(Record):
    """A single prompt, or a JSONL file of prompts (``input``), completed up to ``concurrency`` at a time. Their
    answers are rows of the store, and at the end those of a new file, ``output``, if it is named. ``model`` is that
    of prompts that name none: by its name, or the one that another job trains. With ``score`` nothing is sampled:
    each prompt ends with an answer, whose tokens get their log-probabilities under the model."""

    prompt: Prompt | None = None
    input: DataSource | None = None
    model: TrainedModel | Name | None = None
    output: Name | None = Field(default=None, min_length=1)
    concurrency: Whole = Field(default=8, ge=1, le=1024)
    score: bool = False

    @model_validator(mode="before")
    @classmethod
    def _with_model(cls, value: object) -> object:
        return without_model(value)

    @model_validator(mode="after")
    def _require_prompt_or_files(self) -> "Inference":
        if (self.prompt is None) == (self.input is None):
            raise ValueError("set either prompt, or input")
        if self.output is not None and self.input is None:
            raise ValueError("output: the answer to a single prompt is the job's result; leave it out")
        return self


class CommandPayload(Record):
    """A command for a backend that runs commands. ``options`` are those of the backend. ``inputs`` are arguments
    whose values are the rows of other jobs."""

    command: Name = Field(min_length=1)
    arguments: FiniteObject = Field(default_factory=dict)
    inputs: dict[Name, JobRows] = Field(default_factory=dict)
    options: FiniteObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _require_own_names(self) -> "CommandPayload":
        if both := sorted(self.inputs.keys() & self.arguments.keys()):
            raise ValueError(f"inputs: {', '.join(both)} is an argument too; leave one of them out")
        return self

    def to_command(self) -> Command:
        """Convert to the backend's command. Its ``inputs`` are empty lists, unless they are among the arguments."""
        arguments: dict[str, JsonValue] = {**{name: [] for name in self.inputs}, **self.arguments}
        return Command(name=self.command, arguments=arguments, options=self.options)


class Composite(Record):
    """A job without work of its own, which succeeds once the jobs it depends on have succeeded."""

    note: Text = Field(default="", max_length=10_000)


def _as_preferences(data: object) -> object:
    """Data whose rows are preferences, unless they say that they are something else."""
    if isinstance(data, TrainingData):
        return data.with_files([_file_of_preferences(file) for file in data.files()])
    if not isinstance(data, Mapping):
        return data
    if isinstance(sources := data.get("sources"), list | tuple) and sources:
        return {**data, "sources": [_file_of_preferences(file) for file in sources]}
    return _file_of_preferences(data)


def _file_of_preferences(file: Any) -> Any:
    if isinstance(file, DataFile):
        return file.model_copy(update={"format": "preference"}) if file.format == "auto" else file
    if isinstance(file, Mapping) and file.get("format", "auto") == "auto":
        return {**file, "format": "preference"}
    return file
