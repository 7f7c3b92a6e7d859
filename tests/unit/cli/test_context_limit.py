"""The context of a model that is less than ``max_tokens``: rows that do not fit are found at submit."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.fake import backend as fake
from nsai_work.cli import main
from tests.working_store import open_working_store

CONTEXT = 40
ROWS = {
    # 9 tokens, 95, and 94 of which the last two are learned
    "short": [{"role": "user", "content": "a" * 5}, {"role": "assistant", "content": "b"}],
    "long": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 90}],
    "late": [{"role": "user", "content": "a" * 89}, {"role": "assistant", "content": "b"}],
}
Submit = Callable[..., tuple[int, str]]


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Submit]:
    """Submit a job with these rows, and return its exit code and the errors."""
    monkeypatch.setattr(fake, "CONTEXT_LENGTH", CONTEXT)
    handlers, level = logging.root.handlers[:], logging.root.level

    def call(*rows: str, max_tokens: int, **data: Any) -> tuple[int, str]:
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": ROWS[row]}) + "\n" for row in rows))
        payload = {"base_model": "tiny-lm", "data": {"path": "a.jsonl", **data}, "max_steps": 1}
        job = {"kind": "training_step", "backend": "fake", "payload": {**payload, "max_tokens": max_tokens}}
        (tmp_path / "job.json").write_text(json.dumps(job))
        monkeypatch.setattr(sys, "argv", ["nsai-work", "submit", str(tmp_path / "job.json")])
        with pytest.raises(SystemExit) as exited:
            main()
        return int(exited.value.code or 0), capsys.readouterr().err

    yield call
    logging.root.handlers[:], logging.root.level = handlers, level


def stored(tmp_path: Path) -> int:
    """The number of jobs in the store."""
    file = tmp_path / "home" / "nsai-work.db"
    if not file.exists():
        return 0
    store = open_working_store(f"sqlite:///{file}")
    count = len(store.list_jobs())
    store.close()
    return count


LIMITS = [
    pytest.param(CONTEXT + 1, CONTEXT, "the model's context", id="above the context"),
    pytest.param(100_000, CONTEXT, "the model's context", id="far above the context"),
    pytest.param(CONTEXT, CONTEXT, "payload.max_tokens", id="the context"),
    pytest.param(CONTEXT - 1, CONTEXT - 1, "payload.max_tokens", id="below the context"),
]


@pytest.mark.parametrize(("max_tokens", "limit", "name"), LIMITS)
def test_a_long_row_is_refused_with_the_limit_that_counts(
    submit: Submit, tmp_path: Path, max_tokens: int, limit: int, name: str
) -> None:
    """The lesser of both, by its name."""
    code, message = submit("short", "long", max_tokens=max_tokens, on_long="error")

    assert code == 2
    assert f"line 2: has 95 tokens, and the limit is {limit} ({name})" in message
    assert stored(tmp_path) == 0


@pytest.mark.parametrize(("max_tokens", "limit", "name"), LIMITS)
def test_a_row_of_which_nothing_is_left_to_learn_is_refused_with_what_helps(
    submit: Submit, tmp_path: Path, max_tokens: int, limit: int, name: str
) -> None:
    """To raise ``max_tokens`` does not, where the model's context is the limit."""
    code, message = submit("short", "late", max_tokens=max_tokens)

    assert code == 2
    assert f"the example is cut after {limit} tokens" in message
    assert "shorten the example" in message
    assert ("raise max_tokens" in message) is (name == "payload.max_tokens")
    assert stored(tmp_path) == 0


def test_a_row_that_is_cut_is_accepted(submit: Submit, tmp_path: Path) -> None:
    """As the default has it."""
    assert submit("short", "long", max_tokens=100_000)[0] == 0
    assert stored(tmp_path) == 1
