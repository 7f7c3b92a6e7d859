"""The payload of reinforcement learning."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pydantic import Field, model_validator

from crucible.losses import POLICY_LOSSES
from crucible.values.record import Record
from crucible.values.scalars import Name, Real, Text, Whole
from nsai_work.payloads.data import DataFile, TrainingData
from nsai_work.payloads.environments import EnvironmentSpec
from nsai_work.payloads.job_inputs import TrainedModel
from nsai_work.payloads.kinds import BASE_REFERENCE, TrainingStep
from nsai_work.policies import CheckpointStrategy

REWARD: Final = "reward"
"""The metric of a step with the mean reward of its rollouts."""
TEACHER_LOSS: Final = "cross_entropy"
"""The loss of a run with a teacher."""
_UNREAD: Final = ("format", "train_on", "reduction", "on_long", "ignore")
_OF_TEXTS: Final = ("batch_size", "objective")


def eval_environment(number: int) -> str:
    """Return the field of the environment of a set of tasks."""
    return f"payload.eval.tasks[{number}].environment"


class NoData(TrainingData):
    """The data of a job whose environment has the tasks: none."""

    @model_validator(mode="after")
    def _require_path_or_sources(self) -> "NoData":
        if self.path is not None or self.job is not None or self.sources:
            raise ValueError("set none of path, job and sources")
        return self

    def files(self) -> tuple[DataFile, ...]:
        return ()

    def with_files(self, files: Sequence[DataFile]) -> "NoData":
        del files
        return self


class RolloutLimits(Record):
    """Limits of a rollout: of its ``turns``, of the ``tokens`` sampled in all of them, and of the ``seconds`` that
    its environment may take in all. Beyond the first two it ends with the reward so far; beyond the last it
    fails."""

    turns: Whole = Field(default=16, ge=1, le=10_000)
    tokens: Whole | None = Field(default=None, ge=1, le=100_000_000)
    seconds: Real = Field(default=300.0, gt=0, le=86_400)


class RolloutErrors(Record):
    """The treatment of rollouts whose environment fails: each is begun again ``retry`` times; a group of which
    fewer than ``min_group`` rollouts are left is not trained on."""

    retry: Whole = Field(default=3, ge=0, le=1_000)
    min_group: Whole = Field(default=2, ge=1, le=65_536)


class RolloutSampling(Record):
    """The sampling of answers: at most ``max_tokens`` a turn, and ``concurrency`` at a time, of at most twice as
    many rollouts."""

    max_tokens: Whole = Field(default=256, ge=1, le=100_000_000)
    temperature: Real = Field(default=1.0, gt=0, le=100)
    top_p: Real = Field(default=1.0, gt=0, le=1)
    top_k: Whole | None = Field(default=None, ge=1, le=1_000_000)
    concurrency: Whole = Field(default=256, ge=1, le=65_536)
    limits: RolloutLimits = RolloutLimits()
    on_error: RolloutErrors = RolloutErrors()


class AdvantageSpec(Record):
    """The computation of advantages from rewards: less the mean of the group, or as they are (``baseline: none``);
    divided by the standard deviation of the group with ``scale: std``. Groups of equal rewards are dropped unless
    ``drop_constant`` is false, except one if there is no other."""

    baseline: Literal["group_mean", "none"] = "group_mean"
    scale: Literal["none", "std"] = "none"
    drop_constant: bool = True


class ReferencePenalty(Record):
    """A penalty for the distance from a ``reference`` model, added to the advantages: of each sampled token,
    ``coef`` times how much less than on average the reference disagrees with the sample; with ``baseline: none``
    the disagreement itself. With a ``discount`` a token answers for those after it too. The reference is the base
    model, another one, or sampling weights by their path; each of the ``data.sources`` may have its own, its
    ``teacher``.
    """

    coef: Real = Field(gt=0, le=1_000)
    reference: Name = Field(default=BASE_REFERENCE, min_length=1, max_length=1_000)
    discount: Real = Field(default=0.0, ge=0, le=1)
    baseline: Literal["mean", "none"] = "mean"


class TeacherTargets(Record):
    """A teacher of the answers that are sampled: in the place of each of their tokens, its ``top_k`` most likely
    ones are the targets, weighted by their probabilities among each other. The teacher is the base model, another
    one, or sampling weights by their path.

    ``prompt`` is what it sees in the place of the user's last message: a text with ``{prompt}``, that message, and
    the columns of the row in braces. The first ``skip_tokens`` of an answer have no targets.
    """

    model: Name = Field(default=BASE_REFERENCE, min_length=1, max_length=1_000)
    top_k: Whole = Field(default=20, ge=1, le=320)
    prompt: Text | None = Field(default=None, min_length=1, max_length=100_000)
    skip_tokens: Whole = Field(default=0, ge=0, le=100_000_000)


class ReinforcementStep(TrainingStep):
    """A training run by reinforcement learning, of ``max_steps`` optimizer steps.

    For each step, ``groups_per_step`` tasks are answered ``group_size`` times each, with the weights of the step
    before. With ``substeps`` the rollouts are divided among so many optimizer steps in a row, and sampled for the
    first of them; with ``steps_ahead`` they come from weights that are so many of these rounds older. After a
    restore the steps that are repeated train on the rollouts of the journal, or with ``on_stale: drop`` on new
    ones. ``seed`` determines the order of the tasks, the episodes and the samples.
    """

    method: Literal["rl"] = "rl"
    data: TrainingData | NoData = NoData()
    environment: EnvironmentSpec | None = None
    groups_per_step: Whole = Field(default=32, ge=1, le=65_536)
    group_size: Whole = Field(default=8, ge=1, le=65_536)
    sampling: RolloutSampling = RolloutSampling()
    advantage: AdvantageSpec = AdvantageSpec()
    loss_fn: Name = Field(default="importance_sampling", min_length=1, max_length=200)
    kl: ReferencePenalty | None = None
    teacher: TeacherTargets | None = None
    substeps: Whole = Field(default=1, ge=1, le=1_000)
    steps_ahead: Whole = Field(default=0, ge=0, le=64)
    on_stale: Literal["train", "drop"] = "train"

    @model_validator(mode="before")
    @classmethod
    def _with_loss_of_teacher(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("teacher") is not None and "loss_fn" not in value:
            return {**value, "loss_fn": TEACHER_LOSS}
        return value

    @model_validator(mode="after")
    def _require_own_fields(self) -> "ReinforcementStep":
        # a stored payload has every field, so that what was not given is the default
        given = [name for name in _OF_TEXTS if getattr(self, name) != TrainingStep.model_fields[name].default]
        held_out = self.eval.data if self.eval is not None else None
        for field, data in (("data", self.data), ("eval.data", held_out)):
            for name in _UNREAD if data is not None else ():
                if getattr(data, name) != TrainingData.model_fields[name].default:
                    raise ValueError(f"{field}.{name}: a prompt file does not have it; leave it out")
        if given:
            raise ValueError(f"{given[0]}: rl does not have it; leave it out (groups_per_step is the batch)")
        if self.environment is None and ((self.kl is None and self.teacher is None) or not self.data.files()):
            raise ValueError(
                "environment: set it; only with kl and the prompts of data a run may learn from its reference "
                "alone, or with teacher from that"
            )
        if (self.environment is not None and self.environment.reward is None) != (not self.data.files()):
            raise ValueError("data: prompts belong to environment.reward, and an environment has tasks of its own")
        return self

    @model_validator(mode="after")
    def _require_prompts(self) -> "ReinforcementStep":
        for number, file in enumerate(self.data.sources):
            if file.format != "auto":
                raise ValueError(f"data.sources[{number}].format: a prompt file does not have it; leave it out")
            if file.teacher is not None and self.kl is None:
                raise ValueError(f"data.sources[{number}].teacher: it is the reference of kl; set kl too")
        taught = [file.teacher is not None for file in self.data.sources]
        if taught and all(taught) and self.kl is not None and self.kl.reference != BASE_REFERENCE:
            raise ValueError("kl.reference: each of data.sources has its own teacher; leave this one out")
        return self

    @model_validator(mode="after")
    def _require_teacher_alone(self) -> "ReinforcementStep":
        if self.teacher is None:
            return self
        if self.kl is not None:
            raise ValueError("teacher: its targets take the place of advantages; leave kl out")
        if self.advantage != AdvantageSpec():
            raise ValueError("advantage: the targets of teacher take its place; leave it out")
        if not self.data.files():
            raise ValueError("teacher: it reads answers to the prompts of data, and not episodes of an environment")
        if self.loss_fn != TEACHER_LOSS or self.loss_fn_config:
            raise ValueError(f"loss_fn: with a teacher it is {TEACHER_LOSS}, without settings; leave it out")
        return self

    @property
    def sampled_loss(self) -> str:
        """The loss whose inputs are made of samples, before a teacher gives their targets."""
        return "importance_sampling" if self.teacher is not None else self.loss_fn

    def references(self) -> tuple[TrainedModel | str, ...]:
        """Return the reference of each file of prompts, or of all tasks; none without a penalty."""
        if self.kl is None:
            return ()
        return tuple(file.teacher or self.kl.reference for file in self.data.sources) or (self.kl.reference,)

    @model_validator(mode="after")
    def _require_known_loss(self) -> "ReinforcementStep":
        if self.teacher is not None:
            return self
        loss = POLICY_LOSSES.get(self.loss_fn)
        if loss is None:
            raise ValueError(f"loss_fn: {self.loss_fn!r} is no loss of rl; those are {', '.join(POLICY_LOSSES)}")
        unknown = sorted(set(self.loss_fn_config) - loss.settings)
        if unknown:
            allowed = ", ".join(sorted(loss.settings)) or "none"
            raise ValueError(
                f"loss_fn_config.{unknown[0]}: {self.loss_fn} does not have it; its settings: {allowed}"
            )
        if loss.binds_sequences and self.steps_ahead:
            raise ValueError(
                f"steps_ahead: the samples of {self.loss_fn} end with their session, so that a restored "
                "run could not sample those of earlier weights again; set 0"
            )
        policy = self.checkpoint_policy
        by_epochs = policy.strategy in (CheckpointStrategy.EPOCH, CheckpointStrategy.ALL)
        if loss.binds_sequences and self.substeps > 1 and (by_epochs or policy.save_every % self.substeps):
            raise ValueError(
                f"checkpoint_policy: the samples of {self.loss_fn} end with their session, so that a run restored "
                f"between the {self.substeps} substeps of a round could not go on; set save_every to a multiple of "
                "substeps, and no strategy by epochs"
            )
        return self

    @model_validator(mode="after")
    def _require_groups(self) -> "ReinforcementStep":
        if self.max_steps is None and self.epochs is None:
            raise ValueError("max_steps: set it, or epochs over the tasks")
        compares = self.advantage.baseline == "group_mean" or self.advantage.scale == "std"
        compares = compares and self.teacher is None
        if self.group_size == 1 and compares:
            raise ValueError("group_size: a group of 1 has no mean to compare with; set advantage.baseline: none")
        if self.sampling.on_error.min_group > self.group_size > 1:
            raise ValueError("sampling.on_error.min_group: it is more than group_size")
        return self

    @model_validator(mode="after")
    def _require_whole_rounds_to_go_on(self) -> "ReinforcementStep":
        start = self.continue_from
        if start is not None and start.step % self.substeps:
            raise ValueError(
                f"continue_from: step {start.step} is within a round of {self.substeps} substeps, whose rollouts "
                "are the other job's; choose a checkpoint of a multiple of substeps"
            )
        return self

    @model_validator(mode="after")
    def _require_tasks_of_evaluation(self) -> "ReinforcementStep":
        if self.eval is None:
            return self
        if self.eval.split is not None:
            raise ValueError(
                "eval.split: rl is evaluated on tasks; give eval.tasks, or a file of prompts as eval.data"
            )
        if self.eval.data is not None and (self.environment is None or self.environment.reward is None):
            raise ValueError("eval.data: prompts belong to environment.reward; give eval.tasks")
        if self.eval.every % self.substeps:
            raise ValueError(f"eval.every: weights are sampled from every {self.substeps} steps; set a multiple")
        return self

    def environments(self) -> Mapping[str, EnvironmentSpec]:
        """Return the environments that the job names by field, those of its evaluation included."""
        named = {} if self.environment is None else {"payload.environment": self.environment}
        tasks = self.eval.tasks if self.eval is not None else ()
        return named | {eval_environment(number): each.environment for number, each in enumerate(tasks)}

    @property
    def needs_forward(self) -> str | None:
        return None

    @property
    def binds_sequences(self) -> bool:
        """The loss reads sequences that the service recorded, which end with its session."""
        return POLICY_LOSSES[self.sampled_loss].binds_sequences
