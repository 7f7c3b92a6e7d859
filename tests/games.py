"""Environments for tests: a sum, a guessing game with a tool, a game of two that share it, and faulty ones."""

import asyncio
import random
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from crucible.environments import (
    ChatModel,
    Environment,
    Episode,
    Feedback,
    GroupEnvironment,
    Observation,
    TokenPrompt,
)
from crucible.errors import InvalidRequest
from crucible.prompt import Message, Tool


def user(text: str) -> Message:
    """A message of the user."""
    return Message(role="user", content=text)


SECRET = "tml-key-of-these-games"


class UnreadableError(Exception):
    """An error whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Letters(Environment):
    """The reward is the part of the answer that is the task's letter: a model of bytes learns it in a few steps."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        self._letters = str((settings or {}).get("letters", "abc"))

    def tasks(self) -> int:
        return len(self._letters)

    async def start(self, task: int, seed: int) -> Episode:
        if task >= len(self._letters):
            raise InvalidRequest.of("task", task, f"0 to {len(self._letters) - 1}")
        return _LettersEpisode(self._letters[task])


class _LettersEpisode(Episode):
    def __init__(self, letter: str) -> None:
        self._letter = letter

    async def begin(self) -> Observation:
        return Observation([user(f"Say {self._letter}.")])

    async def step(self, message: Message) -> Feedback:
        text = message.text()
        return Feedback(
            text.count(self._letter) / max(len(text), 1), done=True, metrics={"length": float(len(text))}
        )


class Judged(Letters):
    """Another model judges the answer: the reward is the part of what it says that is lower-case letters."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(settings)
        self._judge: ChatModel | None = None

    def model_names(self) -> Sequence[str]:
        return ["judge"]

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        self._judge = models["judge"]

    async def start(self, task: int, seed: int) -> Episode:
        assert self._judge is not None
        return _JudgedEpisode(await super().start(task, seed), self._judge, seed)


class _JudgedEpisode(Episode):
    def __init__(self, episode: Episode, judge: ChatModel, seed: int) -> None:
        self._episode, self._judge, self._seed = episode, judge, seed

    async def begin(self) -> Observation:
        return await self._episode.begin()

    async def step(self, message: Message) -> Feedback:
        asked = [user(f"Judge this: {message.text()}")]
        answer = (await self._judge.answer(asked, seed=self._seed, max_tokens=4)).text()
        return Feedback(sum(letter.islower() for letter in answer) / max(len(answer), 1), done=True)


class Guess(Environment):
    """Three turns, in each of which the model is to say a byte of a secret that the seed determines."""

    def tasks(self) -> int | None:
        return None

    async def start(self, task: int, seed: int) -> Episode:
        return _GuessEpisode(random.Random(f"{task} {seed}").randrange(256))


class _GuessEpisode(Episode):
    TURNS = 3

    def __init__(self, secret: int) -> None:
        self._secret = secret
        self._turn = 0

    async def begin(self) -> Observation:
        tool = Tool(name="hint", parameters={"type": "object", "properties": {}})
        return Observation([user("Guess a byte.")], [tool])

    async def step(self, message: Message) -> Feedback:
        await asyncio.sleep(0)
        self._turn += 1
        first = message.text().encode()[:1] or b"\0"
        reward = 1.0 - abs(first[0] - self._secret) / 255
        done = self._turn == self.TURNS
        return Feedback(reward, done, [] if done else [user("Lower." if first[0] > self._secret else "Higher.")])


class Longest(GroupEnvironment):
    """The member with the longest answer wins."""

    def tasks(self) -> int:
        return 2

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        if task >= self.tasks():
            raise InvalidRequest.of("task", task, "0 to 1")
        return [_LettersEpisode("x") for _ in range(size)]

    async def group_rewards(
        self, transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> list[float]:
        lengths = [sum(len(message.text()) for message in messages[1:]) for messages in transcripts]
        return [1.0 if length == max(lengths) else 0.0 for length in lengths]


class Faulty(Letters):
    """Of the members of a group, every other misbehaves, in the way that the setting ``fault`` names."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(settings)
        self._fault = str((settings or {})["fault"])
        self._always = bool((settings or {}).get("always"))
        self.begun = 0

    async def start(self, task: int, seed: int) -> Episode:
        if self._fault == "no such task":
            raise InvalidRequest.of("task", task, "none")
        if self._fault == "no episode" and (self._always or self.begun % 2):
            return None  # type: ignore[return-value]
        self.begun += 1
        episode = await super().start(task, seed)
        if self._fault == "not async" and (self._always or self.begun % 2):
            episode.step = blocking_step  # type: ignore[method-assign, assignment]
            return episode
        return _FaultyEpisode(episode, self._fault if self._always or self.begun % 2 else "")

    def tasks(self) -> int:
        return "ten" if self._fault == "tasks of text" else super().tasks()  # type: ignore[return-value]

    async def open(self) -> None:
        if self._fault == "exits at once":
            raise SystemExit(3)
        if self._fault == "hangs at once":
            await asyncio.Event().wait()

    async def close(self) -> None:
        if self._fault == "hangs at its end":
            await asyncio.Event().wait()
        if self._fault == "exits at its end":
            raise SystemExit(3)


def blocking_step(message: Message) -> Feedback:
    return Feedback(1.0, done=True)


class _FaultyEpisode(Episode):
    def __init__(self, episode: Episode, fault: str) -> None:
        self._episode = episode
        self._fault = fault

    async def begin(self) -> Observation:
        if self._fault == "raises at once":
            raise RuntimeError("out of dice")
        if self._fault == "1 MB at once":
            return Observation([user("x" * 1_000_000)])
        if self._fault == "no observation":
            return "hello"  # type: ignore[return-value]
        return await self._episode.begin()

    async def step(self, message: Message) -> Feedback:
        feedback = await self._episode.step(message)
        match self._fault:
            case "raises":
                raise RuntimeError("out of dice")
            case "exits":
                raise SystemExit(3)
            case "cancels":
                raise asyncio.CancelledError
            case "times out itself":
                raise TimeoutError("no answer of the game")
            case "no feedback":
                return 1.0  # type: ignore[return-value]
            case "hangs":
                await asyncio.Event().wait()
            case "NaN":
                return Feedback(float("nan"), done=True)
            case "text":
                return Feedback("1.0", done=True)  # type: ignore[arg-type]
            case "done is text":
                return Feedback(1.0, done="no")  # type: ignore[arg-type]
            case "a reward of 1e300":
                return Feedback(1e300, done=True)
            case "a metric of 1e300":
                return Feedback(1.0, done=True, metrics={"odd": 1e300})
            case "NaN metric":
                return Feedback(1.0, done=True, metrics={"odd": float("inf")})
            case "no messages":
                return Feedback(1.0, done=False)
            case "no Message":
                return Feedback(1.0, done=False, messages=["more"])  # type: ignore[list-item]
            case "a last word":
                return Feedback(1.0, done=True, messages=[user("Bye.")])
            case "a last prompt":
                return Feedback(1.0, done=True, prompt=TokenPrompt([1]))
            case "1 MB":
                return Feedback(0.5, done=False, messages=[user("x" * 1_000_000)])
            case "10 MB":
                return Feedback(0.5, done=False, messages=[user("x" * 10_000_000)])
            case "raises 10 MB":
                raise RuntimeError("\x1b[2Jstep 9\n" + "x" * 10_000_000)
            case "raises a secret":
                raise RuntimeError(f"401: {SECRET}")
            case "raises no text":
                raise UnreadableError
            case "many metrics":
                return Feedback(1.0, done=True, metrics={f"metric {number}": 1.0 for number in range(1000)})
            case "a long name":
                return Feedback(1.0, done=True, metrics={"x" * 1_000_000: 1.0})
            case "endless":
                return Feedback(0.25, done=False, messages=[user("Go on.")])
        return feedback

    async def close(self) -> None:
        if self._fault == "raises at its end":
            raise RuntimeError("cannot be closed")
        if self._fault == "exits at its end":
            raise SystemExit(3)
        if self._fault == "hangs at its end":
            await asyncio.Event().wait()
