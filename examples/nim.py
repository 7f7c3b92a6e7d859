"""A game for two, as an environment: whoever takes the last stone wins. The model plays against itself, or against
another model.

The members of a group play in pairs, each pair a game of its own; with the setting ``opponent`` each member plays a
game against the model that the job names ``opponent``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from crucible.environments import ChatModel, Episode, Feedback, GroupEnvironment, Observation
from crucible.errors import InvalidRequest
from crucible.prompt import Message

MOST = 3
"""The most stones that a move takes."""


class Nim(GroupEnvironment):
    """Games of Nim. A task is a number of stones, from 4 on. Settings: ``games``, the number of tasks, and
    ``opponent``, true to play against a model."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = {"games": 6, "opponent": False} | dict(settings or {})
        self._games, self._has_opponent = given["games"], given["opponent"]
        if not isinstance(self._games, int) or self._games < 1 or len(given) > 2:
            raise InvalidRequest.of("args", settings, "games, a number from 1, and opponent, true or false")
        self._opponent: ChatModel | None = None

    def model_names(self) -> Sequence[str]:
        return ("opponent",) if self._has_opponent else ()

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        self._opponent = models["opponent"]

    def tasks(self) -> int:
        return int(self._games)

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        if not 0 <= task < self._games:
            raise InvalidRequest.of("task", task, f"0 to {self._games - 1}")
        stones = MOST + 1 + task
        if self._opponent is not None:
            return [Duel(Game(stones), self._opponent, seed + number) for number in range(size)]
        if size % 2:
            raise InvalidRequest.of("group_size", size, "an even number: the members play in pairs")
        games = [Game(stones) for _ in range(size // 2)]
        return [Player(game, number) for game in games for number in range(2)]


class Game:
    """The stones of a game for two, and whose turn it is: player 0 or 1."""

    def __init__(self, stones: int) -> None:
        self.stones = stones
        self.turn = 0
        self._moved = asyncio.Event()

    def move(self, text: str) -> float:
        """Take stones for the player whose turn it is. Returns a reward: 1 for the last stone, less than 0 for what
        is no move, which takes one stone."""
        digit = text.strip()[:1]
        legal = digit.isascii() and digit.isdigit() and 1 <= int(digit) <= min(MOST, self.stones)
        self.stones -= int(digit) if legal else 1
        self.turn = 1 - self.turn
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        penalty = 0.0 if legal else -0.5 if digit.isdigit() else -1.0
        return penalty + (self.stones == 0)

    async def wait_for(self, player: int) -> None:
        """Wait until it is a player's turn, or the game has ended."""
        while self.stones and self.turn != player:
            await self._moved.wait()

    def position(self) -> Message:
        """The message that shows the game."""
        return Message(role="user", content=f"{self.stones} stones")


class Player(Episode):
    """One side of a game whose other side is another member of the group."""

    def __init__(self, game: Game, number: int) -> None:
        self._game = game
        self._number = number

    async def begin(self) -> Observation:
        await self._game.wait_for(self._number)
        return Observation([self._game.position()])

    async def step(self, message: Message) -> Feedback:
        reward = self._game.move(message.text())
        metrics = {"legal": float(reward >= 0)}
        await self._game.wait_for(self._number)
        if not self._game.stones:
            return Feedback(reward, done=True, metrics=metrics)
        return Feedback(reward, done=False, messages=[self._game.position()], metrics=metrics)


class Duel(Episode):
    """A game against another model. The trained model begins."""

    def __init__(self, game: Game, opponent: ChatModel, seed: int) -> None:
        self._game = game
        self._opponent = opponent
        self._seed = seed

    async def begin(self) -> Observation:
        return Observation([self._game.position()])

    async def step(self, message: Message) -> Feedback:
        reward = self._game.move(message.text())
        metrics = {"legal": float(reward >= 0)}
        if self._game.stones:
            self._seed = (self._seed + 1) % 2**53
            answer = await self._opponent.answer([self._game.position()], seed=self._seed, max_tokens=1)
            self._game.move(answer.text())
        if not self._game.stones:
            return Feedback(reward, done=True, metrics=metrics)
        return Feedback(reward, done=False, messages=[self._game.position()], metrics=metrics)
