"""What a job of each kind carries."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from crucible import Prompt
from crucible.backend import Command
from crucible.errors import InvalidRequest
from crucible.record import Record
from crucible.recovery import RecoveryPolicy
from crucible.training import LoraSpec, OptimizerSpec, RunSpec
from nsai_work.errors import InvalidJob
from nsai_work.policies import CheckpointPolicy

MOST_STEPS = 1_000_000_000

LossSetting: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
# strict: a text or a truth value that is taken for a number is a mistake that trains on
LossValue: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class JobKind(StrEnum):
    """What a job is. The names are those of the Elixir side."""

    TRAINING_STEP = "training_step"
    INFERENCE = "inference"
    TOOL_CALL = "tool_call"
    EXPERIMENT_STEP = "experiment_step"
    WORKFLOW_STEP = "workflow_step"
    BACKEND_COMMAND = "backend_command"
    COMPOSITE = "composite"


class DataSource(Record):
    """Training data: a JSONL file of conversations (``{"messages": [...]}``) or texts (``{"text": ...}``), or
    plain text with one example per paragraph. ``sha256`` pins the content; submit fills it in."""

    path: str = Field(min_length=1)
    format: Literal["auto", "jsonl", "text"] = "auto"
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class LearningRateSchedule(Record):
    """How the learning rate moves: ``warmup_steps`` up from 0, then constant, or down so that it would reach 0 one
    step after the last."""

    shape: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, le=MOST_STEPS)


class TrainingStep(Record):
    """A training run: ``max_steps`` optimizer steps, or ``epochs`` over the data (whichever is less if both).

    ``seed`` fixes the order of the data, and the adapter's initial weights unless ``lora.seed`` does.
    ``pipeline_depth`` is how many optimizer steps may be under way at the service at once.
    ``max_tokens`` cuts longer examples (in tokens of the model's tokenizer).
    """

    base_model: str = Field(min_length=1, max_length=1_000)
    data: DataSource
    lora: LoraSpec = LoraSpec()
    loss_fn: str = Field(default="cross_entropy", min_length=1, max_length=200)
    loss_fn_config: dict[LossSetting, LossValue] = Field(default_factory=dict)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: LearningRateSchedule = LearningRateSchedule()
    batch_size: int = Field(default=32, ge=1, le=65_536)
    max_steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    epochs: int | None = Field(default=None, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    max_tokens: int = Field(default=4096, ge=2, le=100_000_000)
    pipeline_depth: int = Field(default=2, ge=1, le=64)
    checkpoint_policy: CheckpointPolicy = CheckpointPolicy()
    recovery: RecoveryPolicy = RecoveryPolicy(enabled=True, backoff_ms=1_000)

    def run_spec(self, user_metadata: dict[str, str] | None = None) -> RunSpec:
        """What the remote run is made from."""
        lora = self.lora if self.lora.seed is not None else self.lora.model_copy(update={"seed": self.seed})
        return RunSpec(base_model=self.base_model, lora=lora, user_metadata=user_metadata or {})


class Inference(Record):
    """One prompt, or a JSONL file of prompts answered into another file, ``concurrency`` at a time."""

    prompt: Prompt | None = None
    input: DataSource | None = None
    output: str | None = Field(default=None, min_length=1)
    concurrency: int = Field(default=8, ge=1, le=1024)

    @model_validator(mode="after")
    def _one_of_two(self) -> "Inference":
        if (self.prompt is None) == (self.input is None):
            raise ValueError("give either prompt, or input and output")
        if (self.input is None) != (self.output is None):
            raise ValueError("input and output go together")
        return self


class CommandPayload(Record):
    """A command for a backend that runs commands."""

    command: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)

    def to_command(self) -> Command:
        """As the backend takes it."""
        return Command(name=self.command, arguments=self.arguments)


class Composite(Record):
    """A job that only joins others: it runs nothing, and succeeds when the jobs it depends on have."""

    note: str = ""

    @field_validator("note")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 10_000:
            raise ValueError("at most 10,000 characters")
        return value


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
    """The typed payload of a kind.

    Raises:
        InvalidJob: naming each wrong field under ``payload``.
    """
    try:
        return PAYLOADS[kind].model_validate(payload)
    except ValidationError as error:
        raise InvalidJob.from_validation(error, prefix="payload") from None
    except InvalidRequest as error:
        raise InvalidJob(f"payload: {error.message}", details=error.details) from error
