"""The kit of environments on the adapter of OpenEnv; run in the environment that has that package, with the servers
of ``openenv_server.py``."""

import asyncio
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit_job import run_job

from crucible.environments import Environment, Feedback, Observation, ServiceFailed, load_environment
from crucible.environments.openenv import OpenEnvEnvironment
from crucible.errors import EnvironmentFailed, InvalidRequest
from crucible.prompt import Message
from crucible.testing import EnvironmentContract
from nsai_work.testing import isolated_store

STARTS_WITHIN_S = 300.0


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(port: int, kind: str = "game", sessions: int = 8, *end: int) -> "subprocess.Popen[bytes]":
    """The process of a server."""
    script = Path(__file__).with_name("openenv_server.py")
    return subprocess.Popen([sys.executable, script, *map(str, (port, kind, sessions, *end))])


@contextmanager
def serving(kind: str = "game", sessions: int = 8) -> Iterator[str]:
    """The URL of a running server."""
    port = free_port()
    process = started(port, kind, sessions)
    try:
        url = f"http://127.0.0.1:{port}"
        # its imports take a minute on a busy machine
        asyncio.run(OpenEnvEnvironment({"url": url, "connect_s": STARTS_WITHIN_S}).open())
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def game() -> Iterator[str]:
    """A server of the game."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def tools() -> Iterator[str]:
    """A server with tools."""
    with serving("tools") as url:
        yield url


class TestGame(EnvironmentContract):
    """The text of an answer is the guess."""

    @pytest.fixture
    def environment(self, game: str) -> Environment:
        return OpenEnvEnvironment({"url": game, "sessions": 8, "tasks": 20})

    def answers(self, task: int) -> Sequence[str]:
        return ("a", "h", "e")


class TestJson(TestGame):
    """The answer is an action itself."""

    @pytest.fixture
    def environment(self, game: str) -> Environment:
        return OpenEnvEnvironment({"url": game.replace("http", "ws"), "actions": "json", "observation": "text"})

    def answers(self, task: int) -> Sequence[str]:
        return ('{"message": "a"}', '{"message": "h"}', '{"message": "b"}')


class TestTools(EnvironmentContract):
    """Tools, which the answers do not call."""

    @pytest.fixture
    def environment(self, tools: str) -> Environment:
        return OpenEnvEnvironment({"url": tools, "actions": "tools", "instructions": "Count to 10."})


def played(settings: dict[str, Any], *answers: Any, task: int = 0) -> tuple[Observation, list[Feedback]]:
    """The begin of an episode, and what its answers led to."""

    async def run() -> tuple[Observation, list[Feedback]]:
        opened = OpenEnvEnvironment(settings)
        await opened.open()
        episode = await opened.start(task, 0)
        try:
            begun = await episode.begin()
            texts = [Message(role="assistant", content=each) if isinstance(each, str) else each for each in answers]
            return begun, [await episode.step(each) for each in texts]
        finally:
            await episode.close()

    return asyncio.run(run())


def test_actions_and_rewards_are_those_of_the_server(game: str) -> None:
    """Its seed determines the secret; fields are added; what it notes beside is not shown."""
    settings = {"url": game, "fields": {"bonus": 0.5}, "task_field": "task", "instructions": "Be brief."}
    begun, replies = played(settings, "0", "0", "0", task=3)
    assert [(said.role.value, said.text()) for said in begun.messages] == [
        ("system", "Be brief."),
        ("user", '{"left": 3, "text": "Guess a letter. Task 3."}'),
    ]
    assert [reply.messages[0].text() for reply in replies[:2]] == [
        '{"left": 2, "text": "Higher."}',
        '{"left": 1, "text": "Higher."}',
    ]
    assert [(reply.reward, reply.done) for reply in replies] == [(0.0, False), (0.0, False), (0.5, True)]
    shown = played({"url": game, "observation": "text"}, "0")
    assert [said.text() for said in shown[0].messages] == ["Guess a letter. Task 0."]
    found = [
        letter for letter in "abcdefgh" if played({"url": game, "seed": 5}, letter, task=2)[1][0].reward == 1.0
    ]
    assert len(found) == 1


def test_what_the_server_does_not_take_ends_the_episode(game: str) -> None:
    """Without a reward, and counted: it is the model's fault."""
    for settings, answer in (
        ({"actions": "json"}, "not JSON"),
        ({"actions": "json"}, "[1]"),
        ({"actions": "json"}, '{"guess": 1}'),
        ({"field": "gues"}, "a"),
    ):
        _, [reply] = played({"url": game, **settings}, answer)
        assert (reply.reward, reply.done, dict(reply.metrics)) == (0.0, True, {"refused": 1.0})


def test_tools_are_offered_called_and_rewarded(tools: str) -> None:
    """Several in one answer; a tool that fails says so; the server ends the episode."""

    def calling(*numbers: int, name: str = "add") -> Message:
        calls = [
            {"id": f"c{place}", "name": name, "arguments": {"number": number} if name == "add" else {}}
            for place, number in enumerate(numbers)
        ]
        return Message(role="assistant", content="", tool_calls=calls)

    settings = {"url": tools, "actions": "tools", "instructions": "Count to 10."}
    begun, replies = played(settings, calling(2, 3), calling(0, name="fail"), calling(6))
    assert [(said.role.value, said.text()) for said in begun.messages] == [("user", "Count to 10.")]
    assert [tool.name for tool in begun.tools] == ["add", "fail"]
    assert begun.tools[0].parameters["properties"]["number"]["type"] == "integer"
    assert [(said.tool_call_id, said.text()) for said in replies[0].messages] == [("c0", "2"), ("c1", "5")]
    assert "never works" in replies[1].messages[0].text()
    assert [(reply.reward, reply.done) for reply in replies] == [(7.0, False), (5.0, False), (11.0, True)]
    _, [last] = played(settings, "I am done.")
    assert (last.reward, last.done) == (0.0, True)
    with pytest.raises(EnvironmentFailed, match=r"shows nothing; set args\.instructions"):
        played({"url": tools, "actions": "tools"})


def worked(settings: dict[str, Any], **fields: Any) -> Any:
    """The handle of a job on the environment, which has run to its end."""
    return run_job("openenv", settings, **fields)


FAULTS = {
    "raises": "out of dice",
    "raises at once": "no board",
    "hangs": "limits.seconds",
    "text": "a reward must be a number",
    "infinite": "without a finite reward",
    "NaN": "without a finite reward",
    "100 MB": "the connection was lost",
    "no text": "its observation has no field text; it has",
}
ENDS = {"10 MB": "context", "10 MB at once": "context", "endless": "limits.turns", "ends at once": "done"}


@pytest.mark.parametrize("fault", [*FAULTS, *ENDS])
def test_a_fault_costs_its_rollouts_alone(fault: str, game: str) -> None:
    """They are counted with their reason, and the run trains on the others."""
    limits = {"turns": 4, "seconds": 10.0 if fault == "hangs" else 60.0}
    sampling = {"max_tokens": 2, "limits": limits, "on_error": {"retry": 1, "min_group": 1}}
    settings = {"url": game, "sessions": 4, "tasks": 2, "task_field": "task", "observation": "text"}
    with isolated_store():
        handle = worked(settings | {"reset": {"fault": fault}}, sampling=sampling)
        assert handle.job().status == "succeeded", handle.job().error
        [step] = handle.steps()
        bad, good = [[record for record in handle.rollouts() if record.task == task] for task in (0, 1)]
    assert {record.reason for record in good} == {"done"}
    if fault in FAULTS:
        assert all(record.reward is None and FAULTS[fault] in record.reason for record in bad), bad
    else:
        assert {record.reason for record in bad} == {ENDS[fault]}
    assert step.metrics["rollouts_failed"] == (2.0 if fault in FAULTS else 0.0)


def test_the_example_of_the_page_runs(game: str) -> None:
    """As it stands there, but for the port."""
    page = Path(__file__).with_name("write-an-environment.md").read_text()
    blocks = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    [shown] = [block["environment"] for block in blocks if block.get("environment", {}).get("name") == "openenv"]
    with isolated_store():
        handle = worked(shown["args"] | {"url": game}, sampling={"max_tokens": 1})
        assert handle.job().status == "succeeded", handle.job().error
        assert {record.reason for record in handle.rollouts()} == {"done"}


def test_a_server_with_one_session_serves_all_rollouts() -> None:
    """One after the other: none fails for want of a session."""
    with serving(sessions=1) as url, isolated_store():
        handle = worked({"url": url}, sampling={"max_tokens": 1, "on_error": {"retry": 0}}, group_size=4)
        assert handle.job().status == "succeeded", handle.job().error
        assert {record.reason for record in handle.rollouts()} == {"done"}
        assert len(handle.rollouts()) == 8


def test_a_server_that_goes_away_costs_its_rollouts() -> None:
    """Those under way are counted; the next wait until it is back, and the run goes on."""
    port = free_port()
    processes = [started(port, "game", 8, 5)]

    def start_again() -> None:
        processes[0].wait()
        processes.append(started(port, "game", 8))

    keeper = threading.Thread(target=start_again)
    keeper.start()
    try:
        with isolated_store():
            sampling = {"max_tokens": 1, "on_error": {"retry": 0, "min_group": 1}}
            settings = {"url": f"http://127.0.0.1:{port}", "sessions": 2, "connect_s": STARTS_WITHIN_S}
            handle = worked(settings, sampling=sampling, group_size=4, max_steps=2)
            assert handle.job().status == "succeeded", handle.job().error
            records = handle.rollouts()
        failed = [record for record in records if record.reward is None]
        assert 1 <= len(failed) <= 2
        assert all("the connection was lost" in record.reason for record in failed)
        assert len(records) == 16
    finally:
        keeper.join(60)
        for process in processes:
            process.kill()
            process.wait()


def test_a_step_never_goes_to_a_session_that_was_not_reset() -> None:
    """A server that is back does not know the episode: it is lost."""
    port = free_port()
    process = started(port)

    async def body() -> None:
        opened = OpenEnvEnvironment({"url": f"http://127.0.0.1:{port}", "connect_s": STARTS_WITHIN_S})
        await opened.open()
        episode = await opened.start(0, 0)
        await episode.begin()
        process.kill()
        process.wait()
        again = started(port)
        try:
            await opened.open()
            with pytest.raises(EnvironmentFailed, match="the connection was lost"):
                await episode.step(Message(role="assistant", content="a"))
        finally:
            await episode.close()
            again.kill()
            again.wait()

    asyncio.run(body())


def test_a_server_that_is_not_there_is_a_failed_service() -> None:
    """The job waits or is tried again; the error names the URL."""
    opened = OpenEnvEnvironment({"url": f"http://127.0.0.1:{free_port()}", "connect_s": 0.2})
    with pytest.raises(ServiceFailed, match=r"http://127\.0\.0\.1") as failed:
        asyncio.run(opened.open())
    assert failed.value.error.retryable


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "url"),
        ({"url": "127.0.0.1:8000"}, "must be the URL of a server"),
        ({"url": "ftp://127.0.0.1"}, "must be the URL of a server"),
        ({"url": "http://"}, "must be the URL of a server"),
        ({"url": "http://127.0.0.1:99999"}, "must be the URL of a server"),
        ({"url": "http://me:secret@127.0.0.1"}, "no user and no password"),
        ({"url": "http://127.0.0.1/?key=1"}, "without a query"),
        ({"url": "http://127.0.0.1", "sessions": 0}, "sessions"),
        ({"url": "http://127.0.0.1", "action": "x"}, "did you mean actions"),
        ({"url": "http://127.0.0.1", "actions": "json", "field": "x"}, "leave it out"),
        ({"url": "http://127.0.0.1", "reset": {"seed": 1}}, "seed is set for each task"),
        ({"url": "http://127.0.0.1", "reset": {"id": 1}, "task_field": "id"}, "id is set for each task"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    """By name, when a job is submitted; a password is not repeated."""
    with pytest.raises(InvalidRequest, match=named) as refused:
        load_environment("openenv", settings)
    assert "secret" not in str(refused.value)
    assert "secret" not in str(refused.value.details)
