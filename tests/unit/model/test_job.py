"""Job: round trips through JSON, defaults and validation."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.errors import ErrorCategory, Failure
from nsai_work.errors import InvalidJob
from nsai_work.identifiers import is_job_id, new_job_id
from nsai_work.job import Constraints, Job, Priority, Resources
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.policies import CheckpointPolicy
from tests.strategies import names, retry_policies

words = names()
moments = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
# JSON knows neither NaN nor infinity
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)

resources = st.builds(
    Resources,
    cpu=st.none() | st.floats(0.1, 1e3),
    memory_mb=st.none() | st.integers(1, 10**6),
    gpu=st.none() | words,
    timeout_ms=st.none() | st.integers(1, 10**9),
)
constraints = st.builds(
    Constraints,
    preferred_backends=st.lists(words, max_size=3).map(tuple),
    depends_on=st.lists(words, max_size=2).map(tuple),
    not_before=st.none() | moments,
    session_id=st.none() | words,
)
failures = st.builds(
    Failure,
    category=st.sampled_from(ErrorCategory),
    code=words,
    message=st.text(max_size=40),
    retry_after_ms=st.none() | st.integers(0, 10**6),
    details=st.dictionaries(words, values, max_size=2),
)
commands = st.fixed_dictionaries({"command": words, "arguments": st.dictionaries(words, values, max_size=3)})
trainings = st.fixed_dictionaries(
    {"base_model": words, "data": st.fixed_dictionaries({"path": words}), "max_steps": st.integers(1, 10**6)},
    optional={
        "checkpoint_policy": st.builds(CheckpointPolicy, save_every=st.integers(1, 1000)),
        "seed": st.integers(0, 2**31 - 1),
    },
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any job, in any state."""
    kind = draw(st.sampled_from([JobKind.TRAINING_STEP, JobKind.TOOL_CALL]))
    return Job(
        kind=kind,
        payload=draw(trainings if kind is JobKind.TRAINING_STEP else commands),
        backend=draw(words),
        name=draw(st.none() | words),
        priority=draw(st.sampled_from(Priority)),
        tenant_id=draw(words),
        tags=tuple(draw(st.lists(words, max_size=3))),
        resources=draw(resources),
        constraints=draw(constraints),
        retry_policy=draw(retry_policies),
        metadata=draw(st.dictionaries(words, values, max_size=3)),
        status=draw(st.sampled_from(JobStatus)),
        attempt=draw(st.integers(0, 100)),
        created_at=draw(st.none() | moments),
        result=draw(st.none() | st.dictionaries(words, values, max_size=3)),
        error=draw(st.none() | failures),
    )


@given(jobs())
def test_a_job_round_trips_through_json(job: Job) -> None:
    """By pydantic's own JSON and by plain json."""
    assert Job.model_validate_json(job.model_dump_json()) == job
    assert Job.parse(json.loads(json.dumps(job.model_dump(mode="json")))) == job


@given(jobs())
def test_defaults_are_written_out_once(job: Job) -> None:
    """A stored payload has its defaults, so that reading it again changes nothing."""
    assert job.parsed_payload.model_dump(mode="json") == job.payload


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"kind": "unknown"}, "kind", id="kind"),
        pytest.param({"payload": {}}, "payload.command: this field is required", id="missing"),
        pytest.param({"payload": {"command": "x", "typo": 1}}, "payload.typo: unknown field", id="unknown"),
        pytest.param({"priority": "urgent"}, "priority", id="priority"),
        pytest.param({"colour": "red"}, "colour: unknown field", id="unknown-top"),
        pytest.param({"retry_policy": {"max_attempts": 0}}, "retry_policy.max_attempts", id="policy"),
        pytest.param({"constraints": {"concurrency_group": "g"}}, "must be set together", id="half-a-group"),
        pytest.param({"tenant_id": "a\x00b"}, "tenant_id", id="nul"),
        pytest.param({"tags": ["ok", "a\x00b"]}, "tags", id="nul-in-a-tag"),
        pytest.param({"name": "\ud800"}, "name", id="lone-surrogate"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], complaint: str) -> None:
    """Each complaint names the field and what is allowed."""
    with pytest.raises(InvalidJob) as caught:
        Job.parse({"kind": "tool_call", "payload": {"command": "x"}, **fields})

    assert complaint in str(caught.value)


@given(st.lists(moments, min_size=2, max_size=10))
def test_ids_sort_by_time(times: list[datetime]) -> None:
    """The text order of ids is the order of creation, to the millisecond."""
    ids = [new_job_id(moment) for moment in times]
    assert all(map(is_job_id, ids))
    for (first, early), (second, late) in pairwise(zip(times, ids, strict=True)):
        if second - first >= timedelta(milliseconds=1):
            assert early < late
