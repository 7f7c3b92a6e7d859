"""Each form of rows gives the tokens and weights of the golden file, and so do the marks of what is trained."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.data.dataset import load_data, new_counts
from nsai_work.data.rendering.rules import Rendering
from nsai_work.payloads import TrainingData

GOLDEN = Path(__file__).parent / "golden" / "forms.json"
CASES: dict[str, Any] = json.loads(GOLDEN.read_text())
"""By name: the row, settings of the data, and what it makes: runs of a weight, with text, markers as <n>."""


def rendered(folder: Path, row: object, settings: dict[str, Any]) -> list[list[object]]:
    """Return what a row makes."""
    path = folder / "row.jsonl"
    path.write_text(json.dumps(row) + "\n")
    data = TrainingData.model_validate({"path": str(path), **settings})
    (example,) = load_data(data).examples
    counts = new_counts(data, 0)
    (datum,) = Rendering(ByteTokenizer(), 4096).datums(example, counts)
    tokens = [datum.tokens[0], *datum.loss_inputs["target_tokens"]]
    weights = [0.0, *datum.loss_inputs["weights"]]
    assert list(datum.tokens) == tokens[:-1]
    return [
        ["".join(chr(token) if token < 128 else f"<{token}>" for token, _ in group), weight]
        for weight, group in groupby(zip(tokens, weights, strict=True), key=lambda pair: round(pair[1], 6))
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_row_makes_what_stands_in_the_golden_file(tmp_path: Path, name: str) -> None:
    """A change here changes the losses of everybody's runs."""
    case = CASES[name]
    assert rendered(tmp_path, case["row"], case.get("data", {})) == case["makes"]


@pytest.mark.parametrize("tools", ["", " ", "[]", None, []])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": "a", "completion": "b"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
    ids=["messages", "completion", "sharegpt"],
)
def test_a_row_without_tools_may_say_so_in_each_way(tmp_path: Path, row: dict[str, Any], tools: object) -> None:
    """Columns of data sets hold empty text for a row that has none, in every form."""
    assert rendered(tmp_path, row | {"tools": tools}, {}) == rendered(tmp_path, row, {})
