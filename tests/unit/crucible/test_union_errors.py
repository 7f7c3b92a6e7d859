"""Complaints about values that may have several forms name fields, not types."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from crucible.values.union_errors import plain_errors
from nsai_work.errors import InvalidJob
from nsai_work.payloads import JobKind, parse_payload

ALLOWED = "Input should be 'final', 'best' or 'latest', or"
TRAIN = {"base_model": "tiny-lm", "data": {"path": "rows.jsonl"}, "max_steps": 1}
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "of no type": (
        "training_step",
        {"init_from": {"job": "x", "checkpoint": "bestt"}},
        [f"payload.init_from.checkpoint: {ALLOWED} a valid integer (got 'bestt')"],
    ),
    "of a type with a limit": (
        "training_step",
        {"init_from": {"job": "x", "checkpoint": -3}},
        [f"payload.init_from.checkpoint: {ALLOWED} greater than or equal to 1 (got -3)"],
    ),
    "no mapping": (
        "training_step",
        {"method": "distill", "teacher": 5},
        ["payload.teacher: Input should be a mapping, or a valid string (got 5)"],
    ),
    "nearly a mapping": (
        "training_step",
        {"method": "distill", "teacher": {"jobb": "x"}},
        [
            "payload.teacher.job: this field is required",
            "payload.teacher.jobb: unknown field; did you mean job? known are job, checkpoint",
        ],
    ),
    "not only that": (
        "training_step",
        {"max_steps": 0, "init_from": {"job": "x", "checkpoint": []}, "seed": -1},
        [
            "payload.max_steps: Input should be greater than or equal to 1 (got 0)",
            "payload.seed: Input should be greater than or equal to 0 (got -1)",
            f"payload.init_from.checkpoint: {ALLOWED} a valid integer (got [])",
        ],
    ),
    "no union": ("training_step", {"lora": 3}, ["payload.lora: Input should be a mapping of its fields (got 3)"]),
}


@pytest.mark.parametrize(("kind", "fields", "lines"), CASES.values(), ids=CASES)
def test_a_complaint_names_the_field(kind: str, fields: dict[str, Any], lines: list[str]) -> None:
    """Once, and all of them."""
    with pytest.raises(InvalidJob) as caught:
        parse_payload(JobKind(kind), {**TRAIN, **fields})
    assert sorted(caught.value.message.splitlines()) == sorted(lines)


def test_unions_inside_unions_are_plain_too() -> None:
    """To the deepest field."""

    class Inner(BaseModel):
        choice: int | list[int]

    class Outer(BaseModel):
        inner: Inner | str

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"choice": ["x"]}})
    [found] = plain_errors(caught.value)
    assert found["loc"] == ("inner", "choice", 0)
