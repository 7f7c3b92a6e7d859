"""Arguments are validated by the function's signature, and never converted or ignored."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.python.signature import Signature
from crucible.errors import InvalidRequest, PluginError
from nsai_work.functions import Context
from tests import functions

EVERYTHING = Signature(functions.everything, "everything")
VALID: dict[str, Any] = {"number": 1.5, "text": "abc", "items": [1], "table": {"a": True}}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def fits(arguments: dict[str, Any]) -> bool:
    """The types of ``everything``, written out by hand."""

    def is_int(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    number, text, items, table = (arguments[name] for name in VALID)
    return (
        (is_int(number) or isinstance(number, float))
        and isinstance(text, str)
        and len(text) <= 5
        and isinstance(items, list)
        and all(map(is_int, items))
        and isinstance(table, dict)
        and all(isinstance(value, bool) for value in table.values())
        and (arguments.get("maybe") is None or is_int(arguments["maybe"]))
    )


@given(
    changes=st.dictionaries(st.sampled_from([*VALID, "maybe"]), json_values, max_size=3),
    others=st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.text(max_size=3), max_size=2),
)
def test_arguments_are_accepted_as_they_are_or_refused(changes: dict[str, Any], others: dict[str, str]) -> None:
    """The function receives what the job says, or the error names the argument."""
    arguments = {**VALID, **changes, **others}
    if not fits(arguments):
        with pytest.raises(InvalidRequest, match=r"arguments\.(number|text|items|table|maybe)"):
            EVERYTHING.bind(arguments)
        return
    args, kwargs = EVERYTHING.bind(arguments)
    assert args == ()
    assert json.dumps(functions.everything(**kwargs), sort_keys=True) == json.dumps(
        {**functions.everything(**arguments), "number": float(arguments["number"])}, sort_keys=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "arguments.first: missing"),
        ({"first": 1, "secnd": 2}, "arguments.secnd: unknown; did you mean second? known are first, second"),
        ({"first": "1"}, "arguments.first: Input should be a valid integer"),
        ({"first": True}, "arguments.first: Input should be a valid integer"),
        ({"first": 1.0}, "arguments.first: Input should be a valid integer"),
        ({"first": None, "second": []}, "arguments.second: Input should be a valid integer"),
        ({"first": math.nan}, "must be JSON"),
        ({"first": math.inf}, "must be JSON"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    """With what is allowed; all of them at once."""
    with pytest.raises(InvalidRequest) as caught:
        Signature(functions.add, "add").bind(arguments)
    assert message in caught.value.message


def test_a_context_is_no_argument() -> None:
    """A job cannot set it."""
    signature = Signature(functions.count, "count")
    context = object.__new__(Context)

    assert signature.bind({"total": 1}, context) == ((), {"total": 1, "context": context})
    with pytest.raises(InvalidRequest, match=r"arguments.context: unknown; known are total"):
        signature.bind({"total": 1, "context": {}})


@pytest.mark.parametrize("name", ["json", "copy", "model_dump", "self", "schema", "args", "kwargs"])
def test_parameters_may_have_any_name(name: str) -> None:
    """Also those that a validator might use itself."""
    namespace: dict[str, Any] = {}
    exec(f"def function({name}: int): return {name}", namespace)  # the name is this test's own

    _, kwargs = Signature(namespace["function"], "function").bind({name: 7})
    assert kwargs == {name: 7}


@pytest.mark.parametrize("function", [functions.positional, functions.unresolvable])
def test_a_function_that_no_job_can_call_is_refused(function: Any) -> None:
    """It has parameters without a name, or annotations that do not exist."""
    with pytest.raises(PluginError, match="f "):
        Signature(function, "f ")


class Callable:
    """An instance that is called like a function."""

    def __call__(self, value: int) -> int:
        return value


def test_an_entry_point_may_be_any_callable() -> None:
    """Its annotations are those of its method."""
    with pytest.raises(InvalidRequest, match="value"):
        Signature(Callable(), "callable").bind({"value": "x"})
