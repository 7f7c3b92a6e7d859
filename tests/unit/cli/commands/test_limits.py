"""``nsai-work limits``: what users set is what the store keeps, and everything else is refused."""

import json
import logging
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crucible.errors import InvalidRequest
from nsai_work.cli import main
from nsai_work.cli.commands.limits import parse_maximum
from nsai_work.job import Job
from nsai_work.store import ClaimRequest, Limit, Store
from nsai_work.store.claim.limits import MAX_RUNNING, model_limit, tenant_quota
from tests.working_store import open_working_store, selection

Call = Callable[..., str]
T = TypeVar("T")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Calls ``nsai-work limits``, requires that it is done, and gives what it printed."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nsai-work", "limits", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        assert (exited.value.code, shown.err) == (0, "")
        return shown.out

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The store that the command line uses."""
    (tmp_path / "home").mkdir()
    opened = open_working_store(f"sqlite:///{tmp_path / 'home' / 'nsai-work.db'}")
    yield opened
    opened.close()


def test_none_are_set(call: Call) -> None:
    """A fresh store says so, and is an empty list for scripts."""
    assert call("list") == "no limits are set\n"
    assert json.loads(call("list", "--json")) == []


def test_each_is_set_shown_and_lifted(call: Call, store: Store) -> None:
    """A sentence says what changed; the list shows what is set."""
    assert call("tenant", "acme", "2") == "tenant acme: at most 2 concurrent jobs; 0 running now\n"
    assert "team-a: at most 1 concurrent job for all models" in call("credential", "team-a", "1")
    assert "team-a: at most 0 concurrent jobs for model llama" in call(
        "credential", "team-a", "0", "--model", "llama"
    )

    assert [line.split() for line in call("list").splitlines()] == [
        ["SCOPE", "NAME", "MODEL", "MAX", "RUNNING"],
        ["credential", "team-a", "all", "1", "0"],
        ["credential", "team-a", "llama", "0", "0"],
        ["tenant", "acme", "-", "2", "0"],
    ]
    assert store.limits()[2] == Limit("tenant", "acme", "*", 2)

    assert "team-a: no limit for all models" in call("credential", "team-a", "none")
    assert "team-a: no limit for model llama" in call("credential", "team-a", "none", "--model", "llama")
    assert "acme: no limit" in call("tenant", "acme", "none")
    assert store.limits() == []


def test_what_runs_is_counted_and_not_stopped(call: Call, store: Store) -> None:
    """A limit below what runs now is kept by what comes, and the sentence says that nothing is stopped."""
    job = {"kind": "tool_call", "backend": "fake", "payload": {"command": "noop"}, "tenant_id": "acme"}
    store.submit([Job.parse(job), Job.parse(job)])
    store.claim(ClaimRequest("w1", 2, 10.0, selection(backends={"fake": "team-a"})))

    told = call("tenant", "acme", "1")
    set_to = json.loads(call("credential", "team-a", "3", "--json"))

    assert told == "tenant acme: at most 1 concurrent job; 2 running now, and none is stopped\n"
    assert set_to == {"scope": "credential", "key": "team-a", "model": "*", "max_running": 3, "running": 2}
    assert json.loads(call("list", "--json")) == [
        set_to,
        {"scope": "tenant", "key": "acme", "model": "*", "max_running": 1, "running": 2},
    ]


def test_a_name_cannot_write_to_the_terminal(call: Call) -> None:
    """Control characters of a name are shown as escapes."""
    shown = call("tenant", "a\x1b[2Jb", "1") + call("list")

    assert "\x1b" not in shown
    assert shown.count("a\\x1b[2Jb") == 2


def made_or_refused(make: Callable[[], T]) -> T | InvalidRequest:
    """What comes of it; any other error is a mistake."""
    try:
        return make()
    except InvalidRequest as error:
        return error


@given(st.text() | st.text(string.digits + "-+_. none", max_size=9) | st.integers().map(str))
@example("none")
@example("0")
@example(str(MAX_RUNNING))
@example(str(MAX_RUNNING + 1))
@example("-0")
@example("٣")
@example("9" * 5_000)
def test_a_maximum_is_a_plain_number_or_none(text: str) -> None:
    """Anything else is refused, naming MAX and what is allowed; no text is taken for a number it does not show."""
    most = made_or_refused(lambda: parse_maximum(text))

    if isinstance(most, InvalidRequest):
        assert most.message.startswith("MAX: ")
        assert not (text.isascii() and text.isdigit() and len(text) <= 7 and int(text) <= MAX_RUNNING)
        assert text != "none"
    elif most is None:
        assert text == "none"
    else:
        assert str(most) == (text.lstrip("0") or "0")
        assert 0 <= most <= MAX_RUNNING


NAMES = (
    st.text()
    | st.text(max_size=3)
    | st.text(st.characters(categories=["Cs", "Cc", "Zs", "L"]))
    | st.just("x" * 201)
)


@given(NAMES, st.none() | st.integers())
def test_a_quota_is_what_was_asked_for_or_refused(name: str, most: int | None) -> None:
    """Nothing is trimmed or cut: a limit is on exactly that tenant."""
    limit = made_or_refused(lambda: tenant_quota(name, most))

    if isinstance(limit, InvalidRequest):
        assert limit.message.startswith(("tenant_id: ", "max_running: "))
    else:
        assert limit == Limit("tenant", name, "*", most)
        assert name.strip()
        assert len(name.encode()) <= 800
        assert "\x00" not in name


@given(NAMES, NAMES, st.none() | st.integers(-1, MAX_RUNNING + 1))
def test_a_limit_is_what_was_asked_for_or_refused(credential: str, model: str, most: int | None) -> None:
    """The same for a credential and a model, which together fit into the index of every database."""
    limit = made_or_refused(lambda: model_limit(credential, most, model=model))

    if isinstance(limit, InvalidRequest):
        assert limit.message.startswith(("credential: ", "model: ", "max_running: "))
    else:
        assert limit == Limit("model", credential, model, most)
        assert credential.strip()
        assert model.strip()
        assert len((credential + model).encode()) <= 1_800
        assert "\x00" not in credential + model


@pytest.mark.parametrize("key", ["tml-0123456789abcdef01", " tml-0123456789abcdef01", "sk-proj_0123456789abcdef"])
def test_a_key_is_no_name(key: str) -> None:
    """Who gives the key itself is told so, and it is not repeated."""
    with pytest.raises(InvalidRequest, match="credential: looks like a key") as caught:
        model_limit(key, 1)

    assert key.strip() not in f"{caught.value} {caught.value.details}"
