"""Every field of a payload is read by the module of its row, by the expression that stands there.

A new field fails here until its row says where it takes effect. Prompts are walked in
tests/unit/openai/test_every_prompt_field.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from crucible.prompt import Prompt
from crucible.training import OptimizerSpec
from nsai_work.payloads import METHODS, PAYLOADS
from tests.unit.model.test_every_field import models

ROOT = Path(__file__).parents[3]
_ROLLOUTS, _RESTART = "nsai_work/training/rollouts", "nsai_work/training/restart"
_READS, _SUBMIT = "nsai_work/payloads/reads", "nsai_work/client"

READERS: dict[str, Mapping[str, str]] = {
    "TrainingStep": {
        "nsai_work/training/plan": "payload.optimizer payload.schedule payload.batch_size payload.max_steps"
        " payload.epochs payload.seed payload.pipeline_depth",
        "nsai_work/training/sources/data_source": "payload.method payload.base_model payload.data"
        " payload.max_tokens payload.eval",
        "nsai_work/payloads/kinds": "self.lora",
        "nsai_work/training/pipeline": "payload.loss_fn payload.loss_fn_config",
        "nsai_work/training/driver": "payload.objective payload.recovery",
        "nsai_work/training/evaluation": "payload.early_stopping",
        f"{_RESTART}/entry": "payload.init_from payload.continue_from",
        "nsai_work/training/checkpoints": "payload.checkpoint_policy",
        "nsai_work/sinks/registry": "payload.sinks",
    },
    "PreferenceStep": {
        "nsai_work/training/sources/preference": "payload.reference",
        "nsai_work/training/driver": "payload.beta",
    },
    "DistillationStep": {
        "nsai_work/payloads/distillation": "self.teacher",
        "nsai_work/training/sources/teacher": "payload.top_k",
    },
    "ReinforcementStep": {
        f"{_ROLLOUTS}/environment": "payload.environment payload.groups_per_step payload.sampling payload.substeps"
        " payload.kl",
        f"{_ROLLOUTS}/source": "payload.group_size payload.steps_ahead payload.on_stale",
        f"{_ROLLOUTS}/examples": "payload.advantage",
        f"{_ROLLOUTS}/teacher": "payload.teacher",
    },
    "RolloutSampling": {
        f"{_ROLLOUTS}/environment": "sampling.concurrency",
        f"{_ROLLOUTS}/episodes/rollout": "sampling.max_tokens sampling.temperature sampling.top_p sampling.top_k"
        " sampling.limits",
        f"{_ROLLOUTS}/episodes/groups": "sampling.on_error",
    },
    "RolloutLimits": {f"{_ROLLOUTS}/episodes/rollout": "limits.turns limits.tokens limits.seconds"},
    "RolloutErrors": {
        f"{_ROLLOUTS}/episodes/groups": "on_error.retry",
        f"{_ROLLOUTS}/examples": "on_error.min_group",
    },
    "AdvantageSpec": {f"{_ROLLOUTS}/examples": "spec.baseline spec.scale advantage.drop_constant"},
    "ReferencePenalty": {
        f"{_ROLLOUTS}/reference": "penalty.coef penalty.discount penalty.baseline",
        "nsai_work/payloads/reinforcement": "kl.reference",
    },
    "TeacherTargets": {f"{_ROLLOUTS}/teacher": "spec.model spec.top_k teacher.prompt spec.skip_tokens"},
    "EnvironmentSpec": {
        f"{_ROLLOUTS}/environment": "spec.name spec.args environment.reward spec.models",
    },
    "TaskSet": {f"{_ROLLOUTS}/environment": "each.name each.environment each.limit each.samples each.temperature"},
    "EvaluationSpec": {
        "nsai_work/training/sources/data_source": "payload.eval.data payload.eval.split",
        f"{_ROLLOUTS}/environment": "eval.tasks payload.eval.every",
    },
    "EarlyStopping": {
        "nsai_work/training/evaluation": "early_stopping.metric early_stopping.patience",
        "nsai_work/policies": "self.min_delta self.mode",
    },
    "CheckpointPolicy": {
        "nsai_work/policies": "self.strategy self.save_every self.keep_last self.save_best self.best_mode",
        "nsai_work/training/run_state": "checkpoint_policy.best_metric checkpoint_policy.ttl",
    },
    "RecoveryPolicy": {
        f"{_RESTART}/decision": "policy.enabled policy.max_attempts policy.on_repeated_corruption",
        "crucible/recovery/policy": "self.backoff_ms self.max_backoff_ms",
        "nsai_work/training/checkpoints": "recovery.checkpoint_strategy",
        "backends/tinkex/recovery/executor": "policy.restore_optimizer",
        "nsai_work/training/driver": "recovery.poll_interval_ms",
        f"{_RESTART}/resume": "recovery.on_cold_optimizer",
        "crucible/recovery/loop": "policy.on_recovery policy.on_failure",
    },
    "LearningRateSchedule": {"nsai_work/training/plan": "schedule.shape schedule.warmup_steps schedule.from_step"},
    "OptimizerSpec": {
        "nsai_work/training/plan": "optimizer.learning_rate",
        "backends/tinkex/step_records": "optimizer.beta1 optimizer.beta2 optimizer.eps optimizer.weight_decay"
        " optimizer.grad_clip_norm",
    },
    "LoraSpec": {
        "backends/tinkex/new_run": "lora.rank lora.seed lora.train_unembed lora.train_mlp lora.train_attn"
    },
    "ObjectiveSpec": {"nsai_work/training/objectives": "spec.name spec.settings"},
    "SinkSpec": {"nsai_work/sinks/registry": "spec.sink spec.settings"},
    "TrainingData": {
        "nsai_work/payloads/data": "self.path self.job self.map self.format self.sha256 self.ship self.images"
        " self.sources",
        "nsai_work/data/dataset": "data.train_on data.on_bad_row data.ignore",
        "nsai_work/training/sources/data_source": "data.on_long data.reduction",
    },
    "DataFile": {
        _READS: "file.job file.map",
        "nsai_work/data/dataset": "file.format file.sha256",
        "nsai_work/training/sources/data_source": "file.weight",
        "nsai_work/payloads/distillation": "file.teacher",
        "nsai_work/data/images": "file.ship file.images file.path",
    },
    "DataSource": {
        "nsai_work/files/input_files": "source.sha256 source.path",
        f"{_SUBMIT}/file_shipper": "source.ship",
        "nsai_work/inference/prompts": "source.format",
    },
    "InitialWeights": {
        _READS: "start.job start.checkpoint init_from.optimizer",
        f"{_RESTART}/entry": "start.path",
    },
    "Continuation": {_READS: "going_on.job going_on.checkpoint", f"{_RESTART}/entry": "start.step start.path"},
    "SavedState": {_READS: "reference.job reference.checkpoint"},
    "TrainedModel": {_READS: "model.job model.checkpoint"},
    "JobRows": {_READS: "rows.job"},
    "Inference": {
        "nsai_work/inference/run": "payload.prompt payload.input payload.output payload.model payload.concurrency "
        "payload.score"
    },
    "CommandPayload": {
        _READS: "payload.inputs payload.arguments",
        "nsai_work/payloads/kinds": "self.command self.options",
    },
}
"""By model: the expressions that read its fields, by module."""

SHOWN = {"metadata", "note"}
"""For people."""

ONE_VALUE = {"OptimizerSpec.name": OptimizerSpec.model_fields["name"].annotation}
"""Fields with one value, of which nothing depends."""


def fields() -> dict[str, set[str]]:
    """The fields of all payloads, by the model that has them first, without those of prompts and of people."""
    found: dict[str, set[str]] = {}
    walked = {model for payload in {*PAYLOADS.values(), *METHODS.values()} for model in models(payload)}
    of_prompts = {base for model in models(Prompt) for base in model.__mro__}
    for model in walked - of_prompts:
        for name in model.model_fields:
            owner = next(base for base in reversed(model.__mro__) if name in getattr(base, "model_fields", {}))
            if issubclass(owner, BaseModel) and name not in SHOWN and f"{owner.__name__}.{name}" not in ONE_VALUE:
                found.setdefault(owner.__name__, set()).add(name)
    return found


def test_every_field_has_a_row() -> None:
    """And no row is of a field that is gone."""
    rows = {
        model: {each.rpartition(".")[2] for expressions in modules.values() for each in expressions.split()}
        for model, modules in READERS.items()
    }
    assert rows == fields()


def test_a_field_without_a_reader_has_one_value() -> None:
    """Any other is refused."""
    assert [len(get_args(annotation)) for annotation in ONE_VALUE.values()] == [1]


@pytest.mark.parametrize("model", READERS)
def test_a_field_is_read_where_its_row_says(model: str) -> None:
    """As an attribute of what the row names."""
    for module, expressions in READERS[model].items():
        text = (ROOT / f"{module}.py").read_text()
        missing = [each for each in expressions.split() if not re.search(rf"(?<![a-z]){re.escape(each)}\b", text)]
        assert missing == [], module
