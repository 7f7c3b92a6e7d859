"""Signatures and literals for type checkers say what the models accept."""

import ast
import inspect
import textwrap
from enum import StrEnum
from typing import get_args

import pytest
from pydantic import BaseModel

from crucible.prompt import Message, Prompt, Role, RoleName, ToolChoice, ToolChoiceName
from nsai_work.job import Job, Priority, PriorityName
from nsai_work.payloads import JobKind, JobKindName
from nsai_work.policies import (
    BackoffName,
    BackoffType,
    CheckpointPolicy,
    CheckpointStrategy,
    RetryPolicy,
    StrategyName,
)

STORED = {"id", *list(Job.model_fields)[list(Job.model_fields).index("metadata") + 1 :]}
"""The fields of a job that the store sets."""


@pytest.mark.parametrize("record", [Job, RetryPolicy, CheckpointPolicy, Prompt, Message])
def test_the_signature_for_type_checkers_has_every_field(record: type[BaseModel]) -> None:
    """It is written by hand, so that a new field must be added to it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0]
    (signature,) = (
        node.args for node in ast.walk(body) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    aliases = {"backoff", "base_delay_ms"} if record is RetryPolicy else set()
    stored = STORED if record is Job else set()

    assert {argument.arg for argument in signature.kwonlyargs} - aliases == set(record.model_fields) - stored


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (JobKindName, JobKind),
        (PriorityName, Priority),
        (BackoffName, BackoffType),
        (StrategyName, CheckpointStrategy),
        (RoleName, Role),
        (ToolChoiceName, ToolChoice),
    ],
)
def test_the_literals_are_the_values_of_the_enumeration(names: object, kind: type[StrEnum]) -> None:
    """Each of them, in the same order."""
    assert list(get_args(names)) == [member.value for member in kind]
