"""Finds the form of a row by its fields, and makes its example."""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from crucible.errors import shown_value
from crucible.values.field_names import fields_beside
from crucible.values.scalars import problem_of
from crucible.values.suggestions import known_names, nearest
from nsai_work.data.example import Example
from nsai_work.data.forms.choices import ChoicesRow
from nsai_work.data.forms.instructions import AlpacaRow, CompletionRow, PreferenceRow, PromptOnlyRow
from nsai_work.data.forms.messages import MessagesRow, without_nulls
from nsai_work.data.forms.sharegpt import ShareGptRow
from nsai_work.data.forms.text import TextRow
from nsai_work.data.problems import RowProblem
from nsai_work.payloads import RowFormat, TrainOn

LABELS: Final = ("id", "metadata", "parallel_tool_calls")
"""Fields of rows that change nothing: they are counted, and named by an event and the result."""


class Row(Protocol):
    """A row of a known form."""

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Raises RowProblem."""


FORMS: Final[dict[RowFormat, type[Any]]] = {
    "messages": MessagesRow,
    "sharegpt": ShareGptRow,
    "preference": PreferenceRow,
    "choices": ChoicesRow,
    "prompt_completion": CompletionRow,
    "alpaca": AlpacaRow,
    "text": TextRow,
    "prompt": PromptOnlyRow,
}
"""The forms of rows, the most specific first."""


def form_of(fields: Mapping[str, Any]) -> RowFormat:
    """Return the form of a row by its fields. Raises RowProblem, which names the nearest form."""
    for name, model in FORMS.items():
        if _required(model) <= fields.keys():
            return name
    raise RowProblem(
        f"fits no format: its fields are {', '.join(sorted(map(_shown, fields))) or 'none'}", _nearest(fields)
    )


def example_of(fields: Mapping[str, Any], form: RowFormat, train_on: TrainOn, *, pairs: bool = False) -> Example:
    """Return the example of a row of a form; with ``pairs``, a preference is a pair. Raises RowProblem."""
    model = FORMS[form]
    unknown = sorted(fields.keys() - model.model_fields.keys())
    if unknown:
        # what a prompt lacks is its answer
        near: RowFormat = "prompt_completion" if form == "prompt" else form
        known = known_names(unknown[0], FORMS[near].model_fields, are=f"fields of {near} are")
        raise RowProblem(
            f"{_shown(unknown[0])} is an unknown field", f"{known}; data.ignore drops a field", unknown[0]
        )
    try:
        row: Row = model.model_validate(dict(fields))
        if pairs and isinstance(row, PreferenceRow):
            return row.pair()
        return row.example(train_on)
    except ValidationError as error:
        raise _problem(error, model) from None


def named_fields(row: Mapping[str, Any], ignore: frozenset[str]) -> dict[str, Any]:
    """Return the fields of a row that are there and are not to be ignored."""
    return {key: value for key, value in without_nulls(row).items() if key not in ignore}


def _required(model: type[Any]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}


def _nearest(fields: Mapping[str, Any]) -> str:
    def distance(name: RowFormat) -> tuple[int, int]:
        known, required = FORMS[name].model_fields, _required(FORMS[name])
        named = {nearest(field, known) if field not in known else field for field in fields}
        return len(required - named), sum(field not in known for field in fields)

    name = min(FORMS, key=distance)
    required = _required(FORMS[name])
    unknown = sorted(str(field) for field in fields if field not in FORMS[name].model_fields)
    hints = [f"did you mean {hint}?" for field in unknown if (hint := nearest(field, FORMS[name].model_fields))]
    return " ".join(
        [f"nearest is {name}, which has {' and '.join(sorted(required))};", *hints, f"known are {', '.join(FORMS)}"]
    )


def _shown(name: object) -> str:
    return f"{ascii(str(name))[1:-1]:.60}"


def _problem(error: ValidationError, model: type[Any]) -> RowProblem:
    items = error.errors(include_url=False)
    # of a union's complaints, those of the branch that came further
    deepest = max(items, key=lambda item: len(item["loc"]))
    first = next(item for item in items if len(item["loc"]) >= min(2, len(deepest["loc"])))
    if len(items) > 1 and any("[" in str(part) for part in deepest["loc"]):
        first = deepest
    field = _path(first)
    if first["type"] == "missing":
        return RowProblem(f"{field} is missing", "it is required", field)
    if first["type"] == "extra_forbidden":
        known = known_names(first["loc"][-1], fields_beside(model, first["loc"]))
        return RowProblem(f"{_shown(field)} is unknown", known, field)
    return RowProblem(f"{field}: {problem_of(first)[1]}", f"got {shown_value(first.get('input'))}", field)


_BRANCH: Final = re.compile(
    r"^(str|constrained-str|text|image|audio|tool_result|dict\[.*|tuple\[.*|function-.*|lax-or-strict.*)$"
)


def _path(item: ErrorDetails) -> str:
    path = ""
    for place, part in enumerate(item["loc"]):
        if isinstance(part, int):
            path += f"[{part}]"
        elif place == 0 or not _BRANCH.match(part) or (place and item["loc"][-1] == part and part == "text"):
            path += f".{part}" if path else part
    return path
