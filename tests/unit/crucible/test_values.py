"""Values that some layer cannot hold are refused by every record, with the field."""

import importlib
import pkgutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import crucible
import nsai_work
from crucible.errors import CrucibleError, Failure, InvalidRequest, shown_value
from crucible.prompt import ToolCall
from crucible.values.json_types import MAX_JSON_DEPTH, FiniteJson, json_problem, to_json
from crucible.values.record import Record
from crucible.values.scalars import Instant, Name, Text
from tests.strategies import CONTROL_CHARACTERS

HUGE = 10**5000


def nested(depth: int, kind: type = list) -> Any:
    """Lists, or objects, inside each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


POISON: dict[str, tuple[Any, str]] = {
    "NaN": (float("nan"), "nan"),
    "infinity": (float("inf"), "inf"),
    "negative infinity": (float("-inf"), "-inf"),
    "lone surrogate": ("a\ud800", "lone surrogate"),
    "name with a lone surrogate": ({"\udfff": 1}, "lone surrogate"),
    "65 bits": (2**63, "64 bits"),
    "negative 65 bits": (-(2**63) - 1, "64 bits"),
    "thousands of digits": (HUGE, "64 bits"),
    "deep list": (nested(10_000), "levels"),
    "deep object": (nested(10_000, dict), "levels"),
    "a name that is a number": ({1: 1}, "not text"),
    "bytes": (b"a", "not a JSON value"),
    "set": ({1}, "not a JSON value"),
}


@pytest.mark.parametrize(("value", "reason"), POISON.values(), ids=POISON)
def test_poison_in_json_is_refused_with_its_path(value: Any, reason: str) -> None:
    """Also inside lists and objects."""
    found = json_problem({"a": [0, {"b": value}]})

    assert found is not None
    path, problem = found
    assert path.startswith("a[1].b")
    assert reason in problem
    with pytest.raises(ValidationError):
        TypeAdapter(FiniteJson).validate_python(value)


def test_a_list_that_contains_itself_is_refused() -> None:
    """It has no end."""
    value: list[Any] = []
    value += [value, value]

    assert json_problem(value) is not None


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
plain = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(plain)
def test_json_is_taken_as_it_is(value: Any) -> None:
    """Unchanged, by the check and by the conversion."""
    assert json_problem(value) is None
    assert TypeAdapter(FiniteJson).validate_python(value) == value
    assert to_json(value) == value


@pytest.mark.parametrize(("value", "reason"), POISON.values(), ids=POISON)
def test_an_error_can_hold_anything(value: Any, reason: str) -> None:
    """A failure is always recorded: what JSON cannot hold becomes text."""
    del reason
    failure = CrucibleError("bad \ud800", details={"value": value}).failure()

    assert json_problem(failure.details) is None
    assert failure.message == "bad ?"
    assert Failure.model_validate_json(failure.model_dump_json()) == failure
    assert "field" in str(InvalidRequest.of("field", value, "something else"))
    assert len(shown_value(value)) <= 80


def test_nesting_up_to_the_limit_is_taken() -> None:
    """Like any JSON."""
    assert json_problem(nested(MAX_JSON_DEPTH)) is None
    assert json_problem(nested(MAX_JSON_DEPTH + 1)) is not None


@given(st.text(), st.sampled_from(CONTROL_CHARACTERS), st.text())
def test_a_control_character_in_a_name_is_refused(head: str, character: str, tail: str) -> None:
    """Wherever it stands."""
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(head + character + tail)


def test_a_text_may_have_lines_but_no_nul() -> None:
    """PostgreSQL stores no NUL."""
    assert TypeAdapter(Text).validate_python("a\n\tb") == "a\n\tb"
    with pytest.raises(ValidationError):
        TypeAdapter(Text).validate_python("a\x00")


@pytest.mark.parametrize(
    "moment",
    [
        "9999-12-31T23:59:59-01:00",
        "0001-01-01T00:00:00+01:00",
        "10000-01-01T00:00:00Z",
        "2026-01-01T00:00:00",
        1e30,
    ],
)
def test_a_time_outside_of_the_calendar_is_refused(moment: object) -> None:
    """In UTC, in which times are stored and compared."""
    with pytest.raises(ValidationError):
        TypeAdapter(Instant).validate_python(moment)


def test_a_time_is_converted_to_utc() -> None:
    """Two ways to write a moment are equal."""
    expected = datetime(2026, 1, 1, 11, tzinfo=UTC)
    converted = TypeAdapter(Instant).validate_python("2026-01-01T12:00:00+01:00")
    assert converted == expected
    assert converted.tzinfo is UTC


# a walk over all records: a new field of an unbounded type fails here


def records() -> Iterator[type[Record]]:
    """All records of both packages."""
    for package in (crucible, nsai_work):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    pending = [Record]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__.partition(".")[0] in ("crucible", "nsai_work"):
            yield kind


def int_schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas of integers and times inside a core schema, without those of other models."""
    if isinstance(schema, dict):
        if schema.get("type") == "model":
            return
        if schema.get("type") in ("int", "datetime", "function-after"):
            yield schema
            if schema["type"] == "function-after" and schema["schema"].get("type") == "datetime":
                return
            if bounds := _outer_bounds(schema):
                yield from ({**bounds, **found} for found in int_schemas(schema["schema"]))
                return
        for item in schema.values():
            yield from int_schemas(item)
    elif isinstance(schema, list | tuple):
        for item in schema:
            yield from int_schemas(item)


def _outer_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Bounds that pydantic checks after the schema of the number."""
    function = schema["function"]["function"] if schema["type"] == "function-after" else None
    return getattr(function, "keywords", {})


def fields() -> Iterator[tuple[str, Any]]:
    """The core schema of every field, by name."""
    for kind in set(records()):
        core: Any = kind.__pydantic_core_schema__
        while core["type"] != "model-fields":
            core = core["schema"]
        for name, field in core["fields"].items():
            yield f"{kind.__module__}.{kind.__name__}.{name}", field["schema"]


def test_every_record_refuses_nan_and_lone_surrogates() -> None:
    """By the configuration that all records inherit."""
    for kind in set(records()):
        assert kind.model_config.get("allow_inf_nan") is False, kind
        assert kind.model_config.get("str_max_length"), kind


def test_every_integer_of_a_record_has_64_bits() -> None:
    """It has both bounds."""
    loose = [
        name
        for name, schema in fields()
        for found in int_schemas(schema)
        if found["type"] == "int" and not ({"ge", "gt"} & found.keys() and {"le", "lt"} & found.keys())
    ]
    assert not loose, "\n".join(loose)


def test_every_time_of_a_record_is_an_instant() -> None:
    """In UTC, between the years 1 and 9999."""
    loose = [name for name, schema in fields() for found in int_schemas(schema) if found["type"] == "datetime"]
    assert not loose, "\n".join(loose)


def test_a_tool_call_of_a_model_keeps_an_integer_of_any_size() -> None:
    """As JSON text: an answer is paid for, and not refused."""
    call = ToolCall(id="1", name="add", arguments={"a": 2**70})

    assert call.parsed_arguments() == {"a": 2**70}
    with pytest.raises(ValidationError):
        ToolCall(id="1", name="add", arguments={"a": float("nan"), "b": 2**70})
