"""``nsai-work limits``: limits are stored as they were given, and invalid ones are rejected."""

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
    """Run ``nsai-work limits``, assert that it succeeds, and return its output."""
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
    """The store of the command line."""
    (tmp_path / "home").mkdir()
    opened = open_working_store(f"sqlite:///{tmp_path / 'home' / 'nsai-work.db'}")
    yield opened
    opened.close()


def test_no_limits(call: Call) -> None:
    """A new store has no limits: a sentence as text, an empty list as JSON."""
    assert call("list") == "no limits are set\n"
    assert json.loads(call("list", "--json")) == []


def test_limits_are_set_listed_and_removed(call: Call, store: Store) -> None:
    """A line reports the change; the list has all limits that are set."""
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


def test_running_jobs_are_counted_and_not_stopped(call: Call, store: Store) -> None:
    """A limit below the number of running jobs stops none of them, and the output says so."""
    job = {"kind": "tool_call", "backend": "fake", "payload": {"command": "noop"}, "tenant_id": "acme"}
    store.submit([Job.parse(job), Job.parse(job)])
    store.claim(ClaimRequest("w1", 2, 10.0, selection(backends={"fake": "team-a"})))

    text = call("tenant", "acme", "1")
    set_to = json.loads(call("credential", "team-a", "3", "--json"))

    assert text == "tenant acme: at most 1 concurrent job; 2 running now, and none is stopped\n"
    assert set_to == {"scope": "credential", "key": "team-a", "model": "*", "max_running": 3, "running": 2}
    assert json.loads(call("list", "--json")) == [
        set_to,
        {"scope": "tenant", "key": "acme", "model": "*", "max_running": 1, "running": 2},
    ]


def test_control_characters_are_refused_and_escaped(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that would reach a terminal is refused, and the message escapes it."""
    monkeypatch.setattr(sys, "argv", ["nsai-work", "limits", "tenant", "a\x1b[2Jb", "1"])
    with pytest.raises(SystemExit) as exited:
        main()

    shown = capsys.readouterr()
    assert exited.value.code == 2
    assert "\x1b" not in shown.out + shown.err
    assert "a\\x1b[2Jb" in shown.err
    assert store.limits() == []


def value_or_error(make: Callable[[], T]) -> T | InvalidRequest:
    """Return the value or the InvalidRequest. Other errors fail the test."""
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
    """Any other text is rejected with MAX and the allowed values."""
    most = value_or_error(lambda: parse_maximum(text))

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
def test_a_tenant_limit_is_unchanged_or_rejected(name: str, most: int | None) -> None:
    """Names are neither trimmed nor cut: a limit applies to exactly that tenant."""
    limit = value_or_error(lambda: tenant_quota(name, most))

    if isinstance(limit, InvalidRequest):
        assert limit.message.startswith(("tenant_id: ", "max_running: "))
    else:
        assert limit == Limit("tenant", name, "*", most)
        assert name.strip()
        assert len(name.encode()) <= 800
        assert "\x00" not in name


@given(NAMES, NAMES, st.none() | st.integers(-1, MAX_RUNNING + 1))
def test_a_credential_limit_is_unchanged_or_rejected(credential: str, model: str, most: int | None) -> None:
    """Credential and model together fit into the index of every database."""
    limit = value_or_error(lambda: model_limit(credential, most, model=model))

    if isinstance(limit, InvalidRequest):
        assert limit.message.startswith(("credential: ", "model: ", "max_running: "))
    else:
        assert limit == Limit("model", credential, model, most)
        assert credential.strip()
        assert model.strip()
        assert len((credential + model).encode()) <= 1_800
        assert "\x00" not in credential + model


@pytest.mark.parametrize("key", ["tml-0123456789abcdef01", " tml-0123456789abcdef01", "sk-proj_0123456789abcdef"])
def test_a_key_is_rejected_as_a_name(key: str) -> None:
    """A key in place of a name is rejected, and the message does not repeat it."""
    with pytest.raises(InvalidRequest, match="credential: looks like a key") as caught:
        model_limit(key, 1)

    assert key.strip() not in f"{caught.value} {caught.value.details}"
