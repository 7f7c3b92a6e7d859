"""Environments keep the contract: those of the tests, plain reward functions, and how they are found."""

import asyncio
import importlib.metadata
import importlib.util
import math
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from crucible.environments import (
    Environment,
    Episode,
    Feedback,
    Observation,
    PromptTask,
    RewardEnvironment,
    environment_names,
    load_environment,
)
from crucible.errors import CommandMissing, EnvironmentFailed, InvalidRequest, PluginError
from crucible.prompt import Message
from crucible.testing import EnvironmentContract
from tests.games import Guess, Letters, Longest, user
from tests.token_games import Echoes


class TestLetters(EnvironmentContract):
    """An environment of one turn."""

    @pytest.fixture
    def environment(self) -> Environment:
        return Letters()


class TestGuess(EnvironmentContract):
    """An endless one, of several turns and with a tool."""

    @pytest.fixture
    def environment(self) -> Environment:
        return Guess()


class TestLongest(EnvironmentContract):
    """One of groups."""

    @pytest.fixture
    def environment(self) -> Environment:
        return Longest()


class TestEchoes(EnvironmentContract):
    """One of groups whose episodes take tokens."""

    group_size = 3

    @pytest.fixture
    def environment(self) -> Environment:
        return Echoes()


def right(prompt: str, completion: str, *, answer: int) -> bool:
    """Whether the answer is right."""
    return completion.strip() == str(answer)


def rows(count: int = 3) -> list[PromptTask]:
    """Sums."""
    prompts = [f"What is {number} and 1?" for number in range(count)]
    return [PromptTask(prompt, [user(prompt)], {"answer": number + 1}) for number, prompt in enumerate(prompts)]


class TestRewards(EnvironmentContract):
    """A plain function over rows."""

    @pytest.fixture
    def environment(self) -> Environment:
        return RewardEnvironment(right, rows())


class Unrepeatable(Letters):
    """It draws from the process, not from the seed."""

    async def start(self, task: int, seed: int) -> Episode:
        episode = await super().start(task, seed)
        begin = episode.begin

        async def odd() -> Observation:
            return Observation([*(await begin()).messages, user(str(random.random()))])

        episode.begin = odd  # type: ignore[method-assign]
        return episode


class Endless(Letters):
    """Its episodes never end."""

    async def start(self, task: int, seed: int) -> Episode:
        episode = await super().start(task, seed)

        async def step(message: Message) -> Feedback:
            return Feedback(0.0, done=False, messages=[message])

        episode.step = step  # type: ignore[method-assign]
        return episode


class Talkative(Letters):
    """Its episodes have a last word, which nobody hears."""

    async def start(self, task: int, seed: int) -> Episode:
        episode = await super().start(task, seed)

        async def step(message: Message) -> Feedback:
            return Feedback(0.0, done=True, messages=[message])

        episode.step = step  # type: ignore[method-assign]
        return episode


class Boundless(Letters):
    """It has tasks that it does not count."""

    async def start(self, task: int, seed: int) -> Episode:
        return await super().start(0, seed)


@pytest.mark.parametrize(
    ("environment", "test"),
    [
        (Unrepeatable, "test_task_and_seed_determine_an_episode"),
        (Endless, "test_episodes_end"),
        (Talkative, "test_episodes_end"),
        (Boundless, "test_it_has_tasks"),
    ],
)
def test_the_suite_finds_what_breaks_it(environment: type[Environment], test: str) -> None:
    """Each of these environments fails the test of its fault."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(TestLetters(), test)(environment())


def test_the_suite_answers_each_task_with_its_own_texts() -> None:
    """Also the last one."""
    asked: list[int] = []

    class Suite(EnvironmentContract):
        def answers(self, task: int) -> list[str]:
            asked.append(task)
            return ["a"]

    Suite().test_episodes_end(Letters())
    assert set(asked) == {0, 2}


def reward(function: Callable[..., Any]) -> float:
    """The reward that a function gives."""

    async def body() -> float:
        environment = RewardEnvironment(function, rows())
        episode = await environment.start(1, 0)
        return (await episode.step(Message(role="assistant", content="2"))).reward

    return asyncio.run(body())


def test_a_reward_function_sees_its_row() -> None:
    """The prompt as it stands, the answer's text, and the other columns; async or not."""

    async def later(prompt: str, completion: str, **row: Any) -> float:
        return len(prompt) + float(completion) + row["answer"]

    assert reward(right) == 1.0
    assert reward(later) == len("What is 1 and 1?") + 2 + 2


def test_a_function_that_returns_an_awaitable_is_awaited() -> None:
    """An object with an async call, or a function that wraps an async one."""

    class Judge:
        async def __call__(self, prompt: str, completion: str, answer: int) -> float:
            return float(completion)

    assert reward(Judge()) == 2.0
    assert reward(lambda prompt, completion, answer: Judge()(prompt, completion, answer)) == 2.0


def test_a_function_that_changes_its_arguments_changes_no_later_reward() -> None:
    """Rewards must not depend on how many answers were rewarded before, nor do the prompts."""

    def counted(prompt: list[Any], completion: str, *, tags: list[str]) -> float:
        prompt.append({"role": "user", "content": "more"})
        tags.append("more")
        return float(len(prompt) + len(tags))

    async def later(prompt: list[Any], completion: str, *, tags: list[str]) -> float:
        return counted(prompt, completion, tags=tags)

    async def body(function: Callable[..., Any]) -> list[float]:
        row = PromptTask([{"role": "user", "content": "1"}], [user("1")], {"tags": []})
        environment = RewardEnvironment(function, [row])
        answer = Message(role="assistant", content="2")
        return [(await (await environment.start(0, 0)).step(answer)).reward for _ in range(3)]

    for function in (counted, later):
        assert asyncio.run(body(function)) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "value", ["1.0", None, math.nan, math.inf, -math.inf, [1.0], b"1", 10**400, 1.1e15, -(10**16)]
)
def test_a_reward_that_is_no_number_is_refused(value: Any) -> None:
    """By its kind."""
    with pytest.raises(EnvironmentFailed, match="a reward must be"):
        reward(lambda prompt, completion, answer: value)


def test_a_function_that_hangs_holds_up_nothing_else() -> None:
    """The threads of the loop's executor do not run out."""
    free = threading.Event()

    async def body() -> str:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        episode = await RewardEnvironment(lambda *row, answer: free.wait(), rows()).start(1, 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await episode.step(Message(role="assistant", content="2"))
        try:
            async with asyncio.timeout(10):
                return await asyncio.to_thread(str, "free")
        finally:
            free.set()

    assert asyncio.run(body()) == "free"


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), KeyboardInterrupt(), ValueError("x")])
def test_what_a_function_raises_is_raised_where_it_is_awaited(error: BaseException) -> None:
    """Of any kind: it ends neither the thread nor the event loop unseen."""

    def raises(prompt: str, completion: str, answer: int) -> float:
        raise error

    async def body() -> BaseException:
        episode = await RewardEnvironment(raises, rows()).start(1, 0)
        try:
            await episode.step(Message(role="assistant", content="2"))
        except BaseException as found:
            return found
        raise AssertionError("nothing was raised")

    assert repr(error) in repr(asyncio.run(body()))


def test_a_missing_column_is_named() -> None:
    """With its row, before anything is sampled."""
    with pytest.raises(InvalidRequest, match=r"row 1, of the columns prompt, answer: .*difficulty"):
        RewardEnvironment(lambda prompt, completion, answer, difficulty: 0.0, rows())
    with pytest.raises(InvalidRequest, match="no row"):
        RewardEnvironment(right, [])


def test_environments_are_found() -> None:
    """By module and name, where the module is allowed; and what is no environment is refused."""
    assert isinstance(load_environment("tests.games:Letters", {"letters": "xy"}, allow=["tests"]), Letters)
    with pytest.raises(CommandMissing, match="NSAI_WORK_PYTHON_ALLOW"):
        load_environment("tests.games:Letters", allow=["test"])
    with pytest.raises(InvalidRequest, match=r"did you mean Letters.*Guess") as raised:
        load_environment("tests.games:Leters", allow=["tests.games"])
    assert "asyncio" not in str(raised.value)
    with pytest.raises(PluginError, match="Environment"):
        load_environment("tests.games:user", allow=["tests.games"])
    with pytest.raises(CommandMissing, match="cannot be imported"):
        load_environment("tests.no_such_games:Letters", allow=["tests"])
    with pytest.raises(InvalidRequest, match=r"package\.module:name"):
        load_environment("no such environment")


def test_environments_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an installed package, without permission for its module; two of one name are refused."""
    point = importlib.metadata.EntryPoint("letters", "tests.games:Letters", "crucible.environments")
    found = [point]
    monkeypatch.setattr("crucible.environments.registry._entry_points", lambda path: tuple(found))
    assert environment_names() == ("letters",)
    assert load_environment("letters").tasks() == 3
    found.append(importlib.metadata.EntryPoint("letters", "tests.games:Guess", "crucible.environments"))
    with pytest.raises(PluginError, match="more than once"):
        load_environment("letters")


def test_a_missing_extra_is_named() -> None:
    """With the command that installs it; another worker may have it."""
    if importlib.util.find_spec("reasoning_gym") is not None:
        pytest.skip("reasoning-gym is installed; tests/contract/test_reasoning_gym.py runs")
    with pytest.raises(CommandMissing) as missing:
        load_environment("reasoning_gym", {"task": "gcd"})
    assert "pip install 'nsai-work[reasoning-gym]'" in missing.value.message
