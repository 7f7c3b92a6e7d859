"""Every field of a job says what it does: it changes the outcome, is refused, or is shown.

A new field fails here until it stands in a category, with the test or the module that shows it.
"""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from crucible.options import Options
from nsai_work.chat_server.requests import ChatRequest
from nsai_work.job import NOT_ENFORCED, STATE_FIELDS, Job
from nsai_work.payloads import METHODS, PAYLOADS

SHOWN = {"name", "owner", "metadata", "parent_id", "note"}
"""For people: stored, and shown by ``show --json``."""

OUTCOME: dict[str, str] = {
    "Job": "id kind backend payload priority tenant_id namespace tags resources constraints retry_policy "
    "idempotency_key trace_id span_id trace_flags tracestate baggage",
    "Resources": "timeout_ms",
    "Constraints": "required_backends preferred_backends excluded_backends depends_on not_before deadline "
    "concurrency_group max_concurrent_in_group",
    "RetryPolicy": "max_attempts backoff_type initial_delay_ms max_delay_ms jitter retryable_errors",
}
"""The fields of a job without its payload that change what happens, by model. Payloads: test_payload_readers.py."""


def models(root: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and all models inside its fields."""
    seen: list[type[BaseModel]] = []
    pending: list[Any] = [root]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
            seen.append(annotation)
            pending += [field.annotation for field in annotation.model_fields.values()]
        pending += get_args(annotation)
    yield from seen


def test_every_field_of_a_job_is_in_a_category() -> None:
    """None is dropped in silence."""
    refused = {path.rpartition(".")[2] for path in NOT_ENFORCED} | STATE_FIELDS
    for model in models(Job):
        if model.__name__ not in OUTCOME:
            continue
        known = {*OUTCOME[model.__name__].split(), *SHOWN, *refused}
        assert not model.model_fields.keys() - known, model.__name__


@pytest.mark.parametrize("value", [True, "1"])
def test_a_number_of_a_job_is_written_as_one(value: object) -> None:
    """``learning_rate: yes`` would be 1.0. Those that the store counts are no input."""
    taken = []
    inputs = {
        kind for root in (Job, Options, ChatRequest, *PAYLOADS.values(), *METHODS.values()) for kind in models(root)
    }
    for kind in inputs:
        for name, field in kind.model_fields.items():
            kinds = [field.annotation, *get_args(field.annotation)]
            if not {int, float}.intersection(kinds) or name in STATE_FIELDS:
                continue
            with pytest.raises(ValidationError) as caught:
                kind.model_validate({name: value, "odd": 1})
            if (name,) not in {error["loc"] for error in caught.value.errors()}:
                taken.append(f"{kind.__name__}.{name}")
    assert not taken
