"""Datums: the target of a token is its successor, and only assistant tokens have a weight."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.rendering.chat import Chat
from crucible.rendering.tokenizer import ByteTokenizer, RenderedExample, TurnWeight
from nsai_work.data.dataset import load_data, pin_data
from nsai_work.data.rendering import datums as module
from nsai_work.data.rendering.datums import Datums, shared_datums
from nsai_work.data.rendering.image_places import to_datum
from nsai_work.data.rendering.rules import Rendering
from nsai_work.errors import InvalidJob
from nsai_work.payloads import TrainingData

TOKENIZER = ByteTokenizer()
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=12)})


@given(st.lists(TURN, min_size=1, max_size=4), st.integers(2, 60))
def test_targets_are_the_tokens_shifted_by_one(messages: list[dict[str, str]], max_tokens: int) -> None:
    """Tokens and weights are truncated to max_tokens before the shift."""
    rendered = TOKENIZER.render_example(messages)
    datum = to_datum(rendered, max_tokens)
    kept = list(rendered.tokens[:max_tokens])
    assert list(datum.tokens) == kept[:-1]
    assert list(datum.loss_inputs["target_tokens"]) == kept[1:]
    assert list(datum.loss_inputs["weights"]) == list(rendered.weights[1 : len(kept)])


def test_only_the_assistant_is_learned() -> None:
    """Text and end of the assistant's turn have weight 1; user text and role markers have weight 0."""
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    datum = to_datum(TOKENIZER.render_example(messages), 100)
    targets, weights = datum.loss_inputs["target_tokens"], datum.loss_inputs["weights"]
    learned = [token for token, weight in zip(targets, weights, strict=True) if weight]
    assert learned == [*b"cd", TOKENIZER.END]


def data(folder: Path, *lines: str) -> TrainingData:
    """Load a file of texts."""
    path = folder / "data.jsonl"
    path.write_text("".join(f'{{"messages": [{{"role": "user", "content": "{line}"}}, '
                            f'{{"role": "assistant", "content": "ok"}}]}}\n' for line in lines))  # fmt: skip
    return TrainingData(path=str(path))


def test_every_example_may_count_the_same(tmp_path: Path) -> None:
    """With the sum of its loss weights as it was cut, times the weight of its row; those without a weight have
    none, and the rest is shared by nobody else."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": "b" * size, "weight": size % 3 + 0.5} for size in (1, 5, 40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_data(TrainingData(path=str(path)))
    rendering = Rendering(TOKENIZER, 20)
    plain = shared_datums(dataset, rendering)
    same = shared_datums(dataset, rendering.of(TrainingData(path=str(path), reduction="mean")))

    assert [sum(datum.loss_inputs["weights"]) for datum in plain.batch(range(3))] == [3.0, 15.0, 24.0]
    for datum, before, row in zip(same.batch(range(3)), plain.batch(range(3)), rows, strict=True):
        weights = datum.loss_inputs["weights"]
        assert {weight for weight in weights if weight} == {max(weights)}
        assert [bool(weight) for weight in weights] == [bool(weight) for weight in before.loss_inputs["weights"]]
        assert sum(weights) == pytest.approx(row["weight"])


def test_an_example_of_which_nothing_would_be_learned_is_refused(tmp_path: Path) -> None:
    """In a batch of its own it would give a loss of 0/0; the error names the line and the fix."""
    dataset = load_data(data(tmp_path, "a", "b" * 50))
    with pytest.raises(InvalidJob, match=r"line 2: the first token with a loss weight is 54.*after 20 tokens"):
        Datums(dataset, Rendering(TOKENIZER, 20))


def test_what_is_not_kept_is_rendered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data beyond the cache limit costs time instead of memory; the datums are equal."""
    dataset = load_data(data(tmp_path, "a", "bb", "ccc"))
    everything = Datums(dataset, Rendering(TOKENIZER, 100)).batch([2, 0, 1])
    monkeypatch.setattr(module, "MAX_CACHED_TOKENS", 10)
    assert Datums(dataset, Rendering(TOKENIZER, 100)).batch([2, 0, 1]) == everything


def test_runs_of_a_process_share_their_datums(tmp_path: Path) -> None:
    """Runs with the same data, tokenizer and max_tokens share the datums."""
    dataset = load_data(pin_data(data(tmp_path, "a")))
    first = shared_datums(dataset, Rendering(TOKENIZER, 100))
    assert shared_datums(dataset, Rendering(ByteTokenizer(), 100)) is first
    assert shared_datums(dataset, Rendering(TOKENIZER, 50)) is not first


class SplittingTokenizer(ByteTokenizer):
    """Renders a conversation as one example for each of its messages."""

    def render_training(self, chat: Chat, weights: Sequence[TurnWeight]) -> tuple[RenderedExample, ...]:
        return tuple(self.render_text(message["content"]) for message in chat.messages)


@pytest.mark.parametrize(("on_long", "made"), [("cut", 2), ("skip", 1)])
def test_a_conversation_whose_last_example_is_too_long(
    tmp_path: Path, on_long: Literal["cut", "skip"], made: int
) -> None:
    """Nothing is cut where longer ones are to be skipped: the row counts as one of which something is left out."""
    path = tmp_path / "long.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "y" * 90}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    tally = Datums(load_data(TrainingData(path=str(path))), Rendering(SplittingTokenizer(), 40, on_long)).tally
    assert tally.examples == made
    assert {"cut": tally.cut.first, "skip": tally.skipped.first}[on_long] == [1]
    assert tally.cut.count + tally.skipped.count == 1
