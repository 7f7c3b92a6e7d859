"""Every field of a data row changes tokens or weights, is refused, or is named as unused.

Each field of each parsed row is set back to its default, or changed where it has none, which must change what the
row makes. A new field fails here until a golden case, or a row below, shows its effect.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from crucible.errors import CrucibleError
from crucible.prompt import Role
from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.data.dataset import load_data, new_counts
from nsai_work.data.forms.detection import FORMS, LABELS, form_of, named_fields
from nsai_work.data.forms.sharegpt import ROLES
from nsai_work.data.problems import RowProblem
from nsai_work.data.rendering.rules import Rendering
from nsai_work.payloads import TrainingData, TrainOn
from tests.unit.model.test_every_field import models

Case: TypeAlias = tuple[dict[str, Any], TrainOn]

GOLDEN = json.loads((Path(__file__).parent / "golden" / "forms.json").read_text())
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TOOL = {"name": "tide", "description": "d", "parameters": {"type": "object", "properties": {"pier": {}}}}
CALLED = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "tide", "arguments": {"pier": 3}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_call_id": "c1", "content": "3:30"}]},
    {"role": "assistant", "content": "At 3:30."},
]
ROWS: list[dict[str, Any]] = [
    {"messages": CALLED, "tools": [TOOL]},
    {"messages": [TURNS[0], {"role": "assistant", "refusal": "No."}]},
    {"text": "abc", "weight": 0.5},
    {"instruction": "a", "output": "b", "weight": 0.5},
    {"prompt": "a", "completion": "b", "tools": [TOOL], "weight": 0.5},
    {"prompt": "a", "choices": {"x": 0.25, "y": 0.75}, "prefill": "p", "tools": [TOOL], "weight": 0.5},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {
        "conversations": [
            {"from": "human", "value": "a", "train": True},
            {"from": "gpt", "value": "b", "weight": 0.5},
        ],
        "tools": [TOOL],
        "weight": 0.5,
    },
]
"""Rows beside those of the golden file."""

IMAGE_TESTS = "tests/unit/data/test_images.py"
ELSEWHERE: dict[str, str] = {
    "RowImagePart.path": "test_each_form_of_an_image_makes_the_same_example",
    "RowImagePart.base64": "test_each_form_of_an_image_makes_the_same_example",
}
"""Fields whose effect needs files: the test of images that shows it."""

REFUSED: dict[str, dict[str, Any]] = {
    "RowImagePart.detail": {"type": "image", "url": "a.png", "detail": "low"},
    "RowImagePart.media_type": {"type": "image", "path": "a.png", "media_type": "image/png"},
    "AudioPart.url": {"type": "audio", "url": "a.wav"},
    "AudioPart.base64": {"type": "audio", "base64": "AAAA"},
    "AudioPart.format": {"type": "audio", "base64": "AAAA", "format": "wav"},
}
"""Parts of a user's message that are refused."""

UNUSED = {"Tool.strict": {"messages": TURNS, "tools": [{**TOOL, "strict": True}]}}
"""Named by the result and an event."""

DISCRIMINATORS = {"RowTextPart.type", "RowImagePart.type", "AudioPart.type", "ToolResultPart.type"}
"""They choose the model."""


def made(row: Any, form: str, train_on: TrainOn) -> object:
    """What a parsed row makes: tokens and weights, or the problem for which it is refused."""
    try:
        example = row.pair() if form == "preference" else row.example(train_on)
        data = TrainingData(path="x")
        datums = Rendering(ByteTokenizer(), 4096).datums(example, new_counts(data, 0))
    except (RowProblem, CrucibleError, ValueError) as problem:
        return str(problem)
    return [(list(datum.tokens), {name: list(it) for name, it in datum.loss_inputs.items()}) for datum in datums]


def changed(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case Role():
            return Role.SYSTEM if value is not Role.SYSTEM else Role.USER
        case str():
            return f"{value}~" if value not in ROLES else "gpt" if value == "human" else "human"
        case dict():
            return dict(zip(value, reversed(list(value.values())), strict=True)) if len(value) > 1 else {"~": 1}
        case list() | tuple():
            return (value[0], *value)
    raise AssertionError(value)


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """Every model inside a value with one of its fields taken away, by the names of model and field."""
    if isinstance(value, tuple | list):
        for place, item in enumerate(value):
            for name, other in variants(item):
                yield name, (*value[:place], other, *value[place + 1 :])
    if not isinstance(value, BaseModel):
        return
    for field, info in type(value).model_fields.items():
        held = getattr(value, field)
        for name, other in variants(held):
            yield name, value.model_copy(update={field: other})
        default = info.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            default = changed(held)
        if held != default:
            yield f"{type(value).__name__}.{field}", value.model_copy(update={field: default})


@cache
def effective() -> set[str]:
    """The fields that make a difference in some row."""
    cases: list[Case] = [
        (case["row"], case.get("data", {}).get("train_on", "all_assistant_messages")) for case in GOLDEN.values()
    ]
    found = set()
    for content, train_on in [*cases, *((row, "all_assistant_messages") for row in ROWS)]:
        fields = named_fields(content, frozenset({*LABELS, "score"}))
        form = form_of(fields)
        row: Any = FORMS[form].model_validate(fields)
        before = made(row, form, train_on)
        assert isinstance(before, list), (content, before)
        found |= {name for name, other in variants(row) if made(other, form, train_on) != before}
    return found


FIELDS = sorted({f"{model.__name__}.{name}" for form in FORMS.values() for model in models(form)
                 for name in model.model_fields} - DISCRIMINATORS)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_a_row_is_seen_in_what_it_makes(field: str) -> None:
    """Or it is refused, or named as unused."""
    if field == "PromptOnlyRow.prompt":
        # sft refuses a prompt alone; the prompts of rl are read by another module
        assert made(FORMS["prompt"](prompt="a"), "prompt", "all_messages") != []
    elif field in ELSEWHERE:
        assert f"def {ELSEWHERE[field]}(" in (Path(__file__).parents[3] / IMAGE_TESTS).read_text()
    else:
        assert (field in effective()) is (field not in UNUSED.keys() | REFUSED.keys())


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_without_effect_is_refused_by_its_name(field: str, tmp_path: Path) -> None:
    """With the line."""
    name = field.rpartition(".")[2]
    problem = _problem(tmp_path, {"messages": [{"role": "user", "content": [REFUSED[field]]}, TURNS[1]]})
    assert ("audio" if field.startswith("AudioPart") else name) in problem


@pytest.mark.parametrize("field", UNUSED)
def test_a_field_without_effect_is_named(field: str, tmp_path: Path) -> None:
    """Among the labels of rows."""
    (tmp_path / "a.jsonl").write_text(json.dumps(UNUSED[field]) + "\n")
    tally = load_data(TrainingData(path=str(tmp_path / "a.jsonl"))).tally
    assert dict(tally.unused) == {f"tools.{field.rpartition('.')[2]}": 1}


BESIDE: dict[str, tuple[dict[str, Any], str]] = {
    "a refusal": (
        {"messages": [TURNS[0], {"role": "assistant", "content": "b", "refusal": "No."}]},
        "refusal is the text of an answer without content",
    ),
    "a wrapped tool": (
        {"messages": TURNS, "tools": [{"type": "function", "function": TOOL, "parameter": {}}]},
        "parameter is unknown",
    ),
    "a wrapped tool call": (
        {
            "messages": [
                TURNS[0],
                {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "t"}, "input": {}}]},
            ]
        },
        "input is unknown",
    ),
    "a call of ShareGPT": (
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '{"name": "t", "parameters": {"pier": 3}}'},
            ]
        },
        "conversations[1].value has the unknown field parameters",
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_would_be_lost_beside_another_field_is_refused(name: str, tmp_path: Path) -> None:
    """Such as the arguments of a call."""
    row, complaint = BESIDE[name]
    assert complaint in _problem(tmp_path, row)


def _problem(folder: Path, row: dict[str, Any]) -> str:
    (folder / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(CrucibleError, match="line 1") as caught:
        load_data(TrainingData(path=str(folder / "a.jsonl")))
    return caught.value.message
