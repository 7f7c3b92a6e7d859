"""Placement: the order of the candidate backends of a job."""

import pytest

from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.placement import candidate_backends, model_of


def job(backend: str = "own", **constraints: object) -> Job:
    return Job.parse(
        {"kind": "tool_call", "payload": {"command": "x"}, "backend": backend, "constraints": constraints}
    )


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        pytest.param({}, ("own",), id="its-own"),
        pytest.param({"preferred_backends": ["a", "b"]}, ("a", "b", "own"), id="preferred-first"),
        pytest.param({"preferred_backends": ["own", "b"]}, ("own", "b"), id="named-twice"),
        pytest.param({"required_backends": ["a", "b"]}, ("a", "b"), id="required-only"),
        pytest.param(
            {"required_backends": ["a", "own"], "preferred_backends": ["x", "own"]},
            ("own", "a"),
            id="required-ordered",
        ),
        pytest.param({"preferred_backends": ["a"], "excluded_backends": ["own"]}, ("a",), id="excluded"),
    ],
)
def test_candidates_are_ordered(constraints: dict[str, object], expected: tuple[str, ...]) -> None:
    """Preferred, own, required. Required backends exclude others; excluded backends are left out."""
    assert candidate_backends(job(**constraints)) == expected


def test_no_backend_left_is_rejected() -> None:
    """A job that can never run is rejected with the fields to change."""
    with pytest.raises(InvalidJob, match="no backend") as caught:
        candidate_backends(job(excluded_backends=["own"]))
    assert caught.value.details["fields"] == ["constraints", "backend"]


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        pytest.param(
            {"kind": "training_step", "payload": {"base_model": "m", "data": {"path": "p"}, "max_steps": 1}},
            "m",
            id="training",
        ),
        pytest.param(
            {
                "kind": "inference",
                "payload": {"prompt": {"messages": [{"role": "user", "content": "x"}], "options": {"model": "m2"}}},
            },
            "m2",
            id="inference",
        ),
        pytest.param({"kind": "tool_call", "payload": {"command": "x"}}, "", id="command"),
    ],
)
def test_the_model_a_limit_counts(fields: dict[str, object], model: str) -> None:
    """Training and inference have a model, commands have none."""
    assert model_of(Job.parse(fields)) == model
