"""A block that names one field changes no other: for every block of every job, and of every settings record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from pydantic import AliasChoices, BaseModel, ValidationError

from backends.fake.settings import FakeSettings
from backends.litellm_backend.settings import LiteLLMSettings
from backends.openai.settings import OpenAISettings
from backends.peft.settings import PeftSettings
from backends.tinkex.backend_settings import TinkexBackendSettings
from crucible.recovery import RecoveryPolicy
from nsai_work import Job, Settings
from nsai_work.payloads import METHODS, PAYLOADS, JobKind, TrainingStep

Place: TypeAlias = tuple[str, ...]

PAYLOAD: dict[JobKind, dict[str, Any]] = {
    JobKind.TRAINING_STEP: {"base_model": "m", "data": {"path": "x"}},
    JobKind.INFERENCE: {"prompt": {"messages": [{"role": "user", "content": "Hi"}]}},
    JobKind.TOOL_CALL: {"command": "noop"},
    JobKind.EXPERIMENT_STEP: {"command": "noop"},
    JobKind.WORKFLOW_STEP: {"command": "noop"},
    JobKind.BACKEND_COMMAND: {"command": "noop"},
    JobKind.COMPOSITE: {},
}
METHOD: dict[str, dict[str, Any]] = {
    "sft": PAYLOAD[JobKind.TRAINING_STEP],
    "dpo": {"method": "dpo", **PAYLOAD[JobKind.TRAINING_STEP]},
    "distill": {"method": "distill", "teacher": "t", **PAYLOAD[JobKind.TRAINING_STEP]},
    "rl": {"method": "rl", "base_model": "m", "environment": {"name": "e"}, "max_steps": 1},
}
SETTINGS = (Settings, FakeSettings, LiteLLMSettings, OpenAISettings, PeftSettings, TinkexBackendSettings)


@dataclass(frozen=True)
class Subject:
    """A model, with the least that it accepts."""

    name: str
    model: type[BaseModel]
    least: dict[str, Any]

    def parse(self, data: dict[str, Any]) -> BaseModel:
        return self.model.model_validate(data)


@dataclass(frozen=True)
class Block:
    """A nested model inside a subject, and its value where the block is left out."""

    subject: Subject
    place: Place
    left_out: BaseModel

    @property
    def label(self) -> str:
        return f"{self.subject.name}:{'.'.join(self.place)}"

    def parsed_with(self, fields: dict[str, Any]) -> BaseModel:
        """The block's value if it names these fields."""
        found = _at(self.subject.parse(_with(self.subject.least, self.place, fields)), self.place)
        assert isinstance(found, BaseModel)
        return found


def _subjects() -> Iterator[Subject]:
    assert set(PAYLOAD) == set(PAYLOADS) == set(JobKind)
    for kind, model in PAYLOADS.items():
        yield Subject(kind, model, PAYLOAD[kind])
        yield Subject(f"job of {kind}", Job, {"id": "1", "kind": kind, "payload": PAYLOAD[kind]})
    assert set(METHOD) == set(METHODS)
    for method, training in METHODS.items():
        least = METHOD[str(method)]
        yield Subject(str(method), training, least)
        yield Subject(f"job of {method}", Job, {"id": "1", "kind": JobKind.TRAINING_STEP, "payload": least})
    for settings in SETTINGS:
        yield Subject(settings.__name__, settings, {})


def _blocks() -> Iterator[Block]:
    for subject in _subjects():
        value = subject.parse(subject.least)
        yield from _blocks_in(subject, value, ())


def _blocks_in(subject: Subject, value: BaseModel, place: Place) -> Iterator[Block]:
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if isinstance(inner, BaseModel):
            yield Block(subject, (*place, name), inner)
            yield from _blocks_in(subject, inner, (*place, name))


def _at(value: Any, place: Place) -> Any:
    for name in place:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def _with(data: dict[str, Any], place: Place, fields: dict[str, Any]) -> dict[str, Any]:
    if not place:
        return {**data, **fields}
    name, *rest = place
    return {**data, name: _with(data.get(name, {}), tuple(rest), fields)}


def _names(model: type[BaseModel], name: str) -> list[str]:
    alias = model.model_fields[name].validation_alias
    return [name, *(str(choice) for choice in alias.choices)] if isinstance(alias, AliasChoices) else [name]


def _changed(before: BaseModel, after: BaseModel, named: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {
        name: (getattr(before, name), getattr(after, name))
        for name in type(before).model_fields
        if name not in named and getattr(before, name) != getattr(after, name)
    }


BLOCKS = {block.label: block for block in _blocks()}


def test_the_walk_reaches_what_it_is_for() -> None:
    expected = {
        f"training_step:{name}" for name in ("lora", "optimizer", "schedule", "checkpoint_policy", "recovery")
    }
    jobs = {f"job of training_step:{name}" for name in ("resources", "constraints", "retry_policy")}
    rollouts = {f"rl:{name}" for name in ("sampling", "sampling.limits", "sampling.on_error", "advantage", "data")}
    methods = {f"{method}:recovery" for method in METHODS}
    others = {"inference:prompt.options", "FakeSettings:script"}
    assert expected | jobs | rollouts | methods | others <= set(BLOCKS)


@pytest.mark.parametrize("label", BLOCKS)
def test_a_partial_block_changes_no_field_that_it_does_not_name(label: str) -> None:
    block = BLOCKS[label]
    assert _changed(block.left_out, block.parsed_with({})) == {}
    dumped = block.left_out.model_dump(mode="json")
    for field in type(block.left_out).model_fields:
        if field not in dumped:
            continue
        for name in _names(type(block.left_out), field):
            named = block.parsed_with({name: dumped[field]})
            assert _changed(block.left_out, named, frozenset({field})) == {}, f"{{{name}: {dumped[field]!r}}}"


OTHER_VALUES: dict[str, Any] = {
    "enabled": False,
    "max_attempts": 5,
    "backoff_ms": 7,
    "max_backoff_ms": 7,
    "checkpoint_strategy": "best_loss",
    "restore_optimizer": False,
    "poll_interval_ms": 77,
    "on_cold_optimizer": "stop",
    "on_repeated_corruption": "skip_batch",
}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_recovery_block_stays_on_and_sets_what_it_names(field: str) -> None:
    """As YAML has it, and as Python has it."""
    alone = _training()
    for block in ({field: OTHER_VALUES[field]}, RecoveryPolicy(**{field: OTHER_VALUES[field]})):
        policy = _training(recovery=block).recovery
        assert getattr(policy, field) == OTHER_VALUES[field]
        assert _changed(alone.recovery, policy, frozenset({field})) == {}


def _training(**fields: Any) -> TrainingStep:
    payload = {**PAYLOAD[JobKind.TRAINING_STEP], **fields}
    parsed = Job.parse({"kind": "training_step", "payload": payload}).parsed_payload
    assert isinstance(parsed, TrainingStep)
    return parsed


def test_own_loops_keep_the_defaults_of_the_class() -> None:
    policy = RecoveryPolicy()
    assert (policy.enabled, policy.backoff_ms) == (False, 5_000)


def test_a_stored_job_keeps_the_policy_that_was_written_out() -> None:
    """Off stays off, whatever later versions have for defaults."""
    payload = {**PAYLOAD[JobKind.TRAINING_STEP], "recovery": {"enabled": False}}
    job = Job.parse({"kind": "training_step", "payload": payload})
    assert Job.parse(job.model_dump(mode="json")).payload == job.payload
    parsed = job.parsed_payload
    assert isinstance(parsed, TrainingStep)
    assert parsed.recovery.enabled is False


@pytest.mark.parametrize("name", ["on_recovery", "on_failure"])
def test_a_callback_in_a_job_is_refused_and_not_dropped(name: str) -> None:
    policy = RecoveryPolicy(**{name: lambda *arguments: None})
    with pytest.raises(ValidationError, match=f"{name}: a function cannot be stored with a job"):
        Job(kind=JobKind.TRAINING_STEP, payload={**PAYLOAD[JobKind.TRAINING_STEP], "recovery": policy})
    with pytest.raises(ValidationError, match=f"{name}: a function cannot be stored with a job"):
        TrainingStep(**PAYLOAD[JobKind.TRAINING_STEP], recovery=policy)
