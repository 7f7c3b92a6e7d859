"""Rows of choices: the datum of the token in which the answers differ, and rows that have none."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.data.dataset import load_data
from nsai_work.data.held_out import content_hash
from nsai_work.data.rendering.datums import Datums
from nsai_work.data.rendering.preview import preview
from nsai_work.data.rendering.rules import Rendering
from nsai_work.errors import InvalidJob
from nsai_work.payloads import TrainingData, TrainOn

ROW: dict[str, Any] = {"prompt": "q", "choices": {"yes": 0.75, "no": 0.25}, "prefill": "is "}
RENDERING = Rendering(ByteTokenizer(), 64)


def data_of(folder: Path, *rows: dict[str, Any], **settings: Any) -> TrainingData:
    """A file of rows."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainingData.model_validate({"path": str(path), **settings})


def test_a_choice_is_the_token_in_which_the_answers_differ(tmp_path: Path) -> None:
    """All of them are its targets; before it there is none."""
    datums = Datums(load_data(data_of(tmp_path, ROW, {**ROW, "weight": 2.0})), RENDERING)
    first, second = datums.batch([0, 1])
    before = ByteTokenizer().render_prompt([{"role": "user", "content": "q"}]) + list(b"is ")

    assert list(first.tokens) == before
    assert list(first.loss_inputs["target_tokens"]) == [0, 0] * (len(before) - 1) + list(b"yn")
    assert list(first.loss_inputs["weights"]) == [0.0, 0.0] * (len(before) - 1) + [0.75, 0.25]
    assert list(second.loss_inputs["weights"])[-2:] == [1.5, 0.5]
    assert (datums.tally.trained_tokens, datums.tally.tokens) == (2, 2 * (len(before) + 1))


def test_each_answer_is_shown(tmp_path: Path) -> None:
    """With its probability as its weight."""
    shown: Any = preview(load_data(data_of(tmp_path, ROW)).examples, RENDERING)

    assert [row["pieces"][-1] for row in shown] == [{"text": "y", "weight": 0.75}, {"text": "n", "weight": 0.25}]


def test_targets_are_content(tmp_path: Path) -> None:
    """The same question with another outcome is another row."""
    examples = load_data(data_of(tmp_path, ROW, {**ROW, "choices": {"yes": 0.5, "no": 0.5}}, ROW)).examples
    hashes = [content_hash(example) for example in examples]

    assert hashes[0] == hashes[2] != hashes[1]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one choice": ({"choices": {"yes": 1.0}}, "choices: Dictionary should have at least 2 items"),
    "an empty choice": ({"choices": {"": 0.5, "no": 0.5}}, "should have at least 1 character"),
    "a negative probability": ({"choices": {"yes": -0.5, "no": 1.5}}, "greater than or equal to 0"),
    "a sum": ({"choices": {"yes": 0.5, "no": 0.25}}, "whose sum is 1; it is 0.75"),
    "text for a number": ({"choices": {"yes": "1", "no": 0.0}}, "should be a valid number"),
    "two that begin alike": ({"choices": {"yes": 0.5, "yet": 0.25, "no": 0.25}}, "not told apart by one token"),
    "a long prompt": (
        {"prompt": "q" * 80},
        "the choice comes after 86 tokens, and the limit is 64 (payload.max_tokens)",
    ),
    "an unknown field": ({"answer": "yes"}, "answer is an unknown field"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_refused(tmp_path: Path, name: str) -> None:
    """And say what is wrong."""
    changes, message = BAD[name]
    with pytest.raises(InvalidJob) as caught:
        Datums(load_data(data_of(tmp_path, {**ROW, **changes})), RENDERING)
    assert message in str(caught.value)


@pytest.mark.parametrize("train_on", get_args(TrainOn))
def test_only_the_answer_of_a_choice_is_trained(tmp_path: Path, train_on: str) -> None:
    """What would train something else is refused."""
    data = data_of(tmp_path, ROW, train_on=train_on)
    if "assistant" in train_on:
        assert len(load_data(data).examples) == 1
    else:
        with pytest.raises(InvalidJob, match=f"train_on {train_on} does not apply"):
            load_data(data)


def test_a_long_choice_may_be_skipped(tmp_path: Path) -> None:
    """As any other row; cutting its answer off is no way."""
    rows = data_of(tmp_path, ROW, {**ROW, "prompt": "q" * 80})
    datums = Datums(load_data(rows), Rendering(ByteTokenizer(), 64, on_long="skip"))

    assert (len(datums), datums.tally.skipped.first) == (1, [2])


def test_a_method_without_choices_refuses_them(tmp_path: Path) -> None:
    """What cannot be trained is no row."""
    rendering = Rendering(ByteTokenizer(), 64, no_choices="are trained on by method sft, and not by distill")
    with pytest.raises(InvalidJob, match="choices are trained on by method sft, and not by distill"):
        Datums(load_data(data_of(tmp_path, ROW)), rendering)
