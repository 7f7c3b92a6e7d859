"""The kit of environments on the adapter of verifiers; run in the environment that has that package, with the
environments of ``spoken_sums.py`` as an installed package."""

import asyncio
import signal
from typing import Any

import pytest

from crucible.environments import Environment
from crucible.environments.verifiers import VerifiersEnvironment
from crucible.errors import EnvironmentFailed, InvalidRequest
from crucible.prompt import Message
from crucible.testing import EnvironmentContract


class TestSingle(EnvironmentContract):
    """One answer."""

    @pytest.fixture
    def environment(self) -> Environment:
        return VerifiersEnvironment({"id": "spoken-sums"})

    def answers(self, task: int) -> Any:
        return ("it is 1",)


class TestPatient(TestSingle):
    """Several turns."""

    @pytest.fixture
    def environment(self) -> Environment:
        return VerifiersEnvironment({"id": "spoken-sums", "args": {"kind": "patient"}})


class TestTools(TestSingle):
    """Tools, which the answers do not call."""

    @pytest.fixture
    def environment(self) -> Environment:
        return VerifiersEnvironment({"id": "spoken-sums", "args": {"kind": "tools"}})


def played(settings: dict[str, Any], *answers: Any) -> Any:
    """The begin of an episode, and what its answers led to."""

    async def run() -> Any:
        opened = VerifiersEnvironment({"id": "spoken-sums", **settings})
        await opened.open()
        episode = await opened.start(1, 0)
        begun = await episode.begin()
        return begun, [await episode.step(answer) for answer in answers]

    return asyncio.run(run())


def test_tools_are_offered_and_answered() -> None:
    """They are offered, a call is answered, and the rubric gives the reward with its weight."""
    call = {"id": "c1", "name": "add", "arguments": {"a": 1, "b": 1}}
    begun, replies = played(
        {"args": {"kind": "tools"}},
        Message(role="assistant", content="", tool_calls=[call]),
        Message(role="assistant", content="2"),
    )
    assert [tool.name for tool in begun.tools] == ["add"]
    assert [(each.role.value, each.text(), each.tool_call_id) for each in replies[0].messages] == [
        ("tool", "2", "c1")
    ]
    assert (replies[1].reward, replies[1].done, replies[1].metrics["right"]) == (2.0, True, 1.0)


def test_turns_have_new_messages() -> None:
    """Each feedback has the messages since the answer."""
    answer = Message(role="assistant", content="2")
    _, replies = played({"args": {"kind": "patient"}}, answer, answer, answer)
    assert [[said.text() for said in each.messages] for each in replies] == [
        ["Are you sure? 2"],
        ["Are you sure? 4"],
        [],
    ]
    assert [each.done for each in replies] == [False, False, True]


@pytest.mark.parametrize("kind", ["failed", "crashed"])
def test_a_rollout_that_fails_before_it_asks_says_why(kind: str) -> None:
    """As one that fails later."""
    with pytest.raises((EnvironmentFailed, OSError), match="no room"):
        played({"args": {"kind": kind}})


def test_a_rollout_may_end_before_it_asks() -> None:
    """It has its reward then."""
    begun, _ = played({"args": {"kind": "known"}})
    assert (begun.ended.reward, begun.ended.done) == (0.5, True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"id": "json"}, "requires verifiers"),
        ({"id": "../x"}, "id"),
        ({"id": "spoken-sums", "arg": {}}, "arg"),
    ],
)
def test_bad_settings_are_refused(settings: Any, named: str) -> None:
    """Before anything is imported; a module that was not made for verifiers too."""
    with pytest.raises(InvalidRequest, match=named):
        VerifiersEnvironment(settings)


@pytest.mark.parametrize(("args", "named"), [({"kind": "group"}, "group"), ({"tuns": 1}, "refuses it")])
def test_what_is_known_once_loaded_is_refused(args: Any, named: str) -> None:
    """With the setting."""
    with pytest.raises(InvalidRequest, match=named):
        played({"args": args})


def test_signals_are_left_alone() -> None:
    """They stay those of the process."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    played({})
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
