"""A server of OpenEnv for the tests of our adapter, on loopback.

``openenv_server.py PORT KIND SESSIONS [STEP]``: a game with faults (``game``) or one with tools (``tools``), for
this number of sessions at a time. At the step, if one is given, its process ends.
"""

import itertools
import os
import random
import sys
import time
from typing import Any, ClassVar

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation

steps = itertools.count(1)


class Guessed(Action):
    """A guess."""

    message: str
    bonus: float = 0.0


class Hint(Observation):
    """What the game says."""

    text: str
    left: int = 3


class Game(Environment):  # type: ignore[type-arg]
    """Guess a letter that the seed determines, in three turns. ``fault`` names how it misbehaves in even tasks."""

    SUPPORTS_CONCURRENT_SESSIONS: ClassVar[bool] = True
    dies_at: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.secret, self.turn, self.fault = "a", 0, ""

    def reset(self, seed: int | None = None, episode_id: str | None = None, task: int = 0, fault: str = "") -> Hint:
        self.secret, self.turn = random.Random(seed).choice("abcdefgh"), 0
        self.fault = fault if task % 2 == 0 else ""
        if self.fault == "raises at once":
            raise RuntimeError("no board")
        if self.fault == "ends at once":
            return Hint(text="over", done=True, reward=-1.0)
        text = "x" * 10_000_000 if self.fault == "10 MB at once" else f"Guess a letter. Task {task}."
        # as servers do that note the time
        return Hint(text=text, metadata={"now": time.time()})

    def step(self, action: Guessed, timeout_s: float | None = None, **_: Any) -> Hint:
        if next(steps) == self.dies_at:
            os._exit(1)
        self.turn += 1
        right = action.message == self.secret
        done = right or self.turn == 3
        hint = "Lower." if action.message > self.secret else "Higher."
        seen = Hint(text=hint, left=3 - self.turn, done=done, reward=right + action.bonus if done else None)
        match self.fault:
            case "raises":
                raise RuntimeError("out of dice")
            case "hangs":
                time.sleep(300)
            case "text":
                return Hint.model_construct(text="", left=0, done=True, reward="much", metadata={})
            case "NaN":
                return Hint(text="", done=True, reward=float("nan"))
            case "infinite":
                return Hint(text="", done=True, reward=float("inf"))
            case "10 MB":
                return Hint(text="x" * 10_000_000)
            case "100 MB":
                return Hint(text="x" * 100_000_000)
            case "endless":
                return Hint(text="on", reward=0.25)
            case "no text":
                return Hint.model_construct(left=1, done=False, reward=0.0, metadata={})
        return seen

    @property
    def state(self) -> State:
        return State(step_count=self.turn)


class Tools(MCPEnvironment):
    """A counter, whose tools are those of an MCP server."""

    SUPPORTS_CONCURRENT_SESSIONS: ClassVar[bool] = True

    def __init__(self) -> None:
        server = FastMCP("counter")
        self.count = 0

        @server.tool
        def add(number: int) -> int:
            """Add a number to the count."""
            self.count += number
            return self.count

        @server.tool
        def fail() -> str:
            """Fail."""
            raise ValueError("never works")

        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Observation:
        self.count = 0
        return Observation(metadata={"note": "ready"})

    def step(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        seen = super().step(action, timeout_s=timeout_s, **kwargs)
        return self._rewarded(seen)

    async def step_async(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        return self._rewarded(await super().step_async(action, timeout_s=timeout_s, **kwargs))

    def _rewarded(self, seen: Observation) -> Observation:
        if isinstance(seen, CallToolObservation):
            seen.reward, seen.done = float(self.count), self.count >= 10
        return seen

    def _step_impl(self, action: Action, timeout_s: float | None = None, **_: Any) -> Observation:
        return Observation(reward=0.0, done=True)

    @property
    def state(self) -> State:
        return State()


if __name__ == "__main__":
    port, kind, sessions, *end = sys.argv[1:]
    Game.dies_at = int(end[0]) if end else 0
    made: tuple[Any, Any, Any] = (
        (Game, Guessed, Hint) if kind == "game" else (Tools, CallToolAction, CallToolObservation)
    )
    uvicorn.run(create_fastapi_app(*made, max_concurrent_envs=int(sessions)), port=int(port), log_level="error")
