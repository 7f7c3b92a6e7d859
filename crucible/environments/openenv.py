"""Environments of OpenEnv: servers that other programs run, asked over a WebSocket, a session for each episode.

The package is the extra ``openenv``: https://github.com/meta-pytorch/OpenEnv. The server needs nothing of ours.
"""

import asyncio
import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, ValidationError, model_validator

from crucible.environments.chat_model import ServiceFailed
from crucible.environments.contract import Environment, Episode, Feedback, Observation
from crucible.environments.rewards import checked_reward
from crucible.errors import BackendUnavailable, CommandMissing, EnvironmentFailed, InvalidRequest
from crucible.prompt import Message, Tool, ToolCall
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.record_reader import read_record

_MESSAGE_MB: Final = 32
_NO_LIMIT_S: Final = 86_400.0
_PAUSE_S: Final = (0.05, 1.0)
"""The first and the longest pause before a server is asked for a session again."""
_REFUSED: Final = "(code: VALIDATION_ERROR)"
_FULL: Final = "(code: CAPACITY_REACHED)"


def _check_url(url: object) -> None:
    """Check the URL of a server. The error does not repeat it: it may have a password."""
    if not isinstance(url, str):
        return
    problem = None
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or parts.port == 0:
            problem = "must be the URL of a server: http://, https://, ws:// or wss://, and a host"
        elif "@" in parts.netloc:
            problem = "must have no user and no password: jobs are stored and shown"
        elif parts.query or parts.fragment or any(letter.isspace() for letter in url):
            problem = "must end with the path of the server, without a query"
    except ValueError as error:
        problem = f"must be the URL of a server: {error}"
    if problem is not None:
        raise InvalidRequest(f"args.url: {problem}", details={"field": "args.url"})


class OpenEnvSettings(Record):
    """The settings of the environment ``openenv``.

    ``url`` is that of a server, which serves ``sessions`` episodes at a time; an unreachable one is waited for
    up to ``connect_s``. ``actions`` says what an answer becomes: its text the ``field`` of an action, an action
    itself as JSON, or calls of the server's tools. ``fields`` are added to each action. ``observation`` is the
    field that is shown; None is all of them, as JSON. ``instructions`` are the system message. ``reset`` has
    more arguments of reset, and ``task_field`` names the one that gets the number of the task. There are
    ``tasks`` (None: endlessly many), whose seeds follow from ``seed``.
    """

    url: str = Field(min_length=1, max_length=2_000)
    sessions: int = Field(default=1, ge=1, le=65_536)
    connect_s: float = Field(default=30.0, gt=0, le=3_600)
    actions: Literal["text", "json", "tools"] = "text"
    field: str | None = Field(default=None, min_length=1, max_length=200)
    fields: FiniteObject = Field(default_factory=dict)
    observation: str | None = Field(default=None, min_length=1, max_length=200)
    instructions: str | None = Field(default=None, max_length=100_000)
    reset: FiniteObject = Field(default_factory=dict)
    task_field: str | None = Field(default=None, min_length=1, max_length=200)
    tasks: int | None = Field(default=None, ge=1, lt=2**53)
    seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _require_one_of_each(self) -> "OpenEnvSettings":
        if self.actions == "json" and self.field is not None:
            raise ValueError("field: the answer is the whole action; leave it out")
        for name in ("seed", self.task_field):
            if name in self.reset:
                raise ValueError(f"reset: {name} is set for each task; leave it out")
        return self


class OpenEnvEnvironment(Environment):
    """A server of OpenEnv. Each episode is a session of its own."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        """Validate settings.

        Raises:
            InvalidRequest: a setting is invalid; the error names it.
            CommandMissing: the package openenv is not installed here.
        """
        given = dict(settings or {})
        _check_url(given.get("url"))
        self._settings = read_record(OpenEnvSettings, given)
        if importlib.util.find_spec("openenv") is None:
            raise CommandMissing(
                "environment openenv: the package openenv is not installed; pip install 'nsai-work[openenv]'",
                details={"field": "environment.name"},
            )

    def max_episodes(self) -> int:
        return self._settings.sessions

    def tasks(self) -> int | None:
        return self._settings.tasks

    async def open(self) -> None:
        session = _Session(self._settings)
        try:
            await session.connect()
        except EnvironmentFailed as error:
            raise ServiceFailed(BackendUnavailable(error.message)) from error
        finally:
            await session.close()

    async def start(self, task: int, seed: int) -> Episode:
        del seed  # the problem follows from the task and the seed of the settings
        settings = self._settings
        if task < 0 or (settings.tasks is not None and task >= settings.tasks):
            raise InvalidRequest.of("task", task, "0 to the last task")
        digest = blake2b(f"{settings.seed} {task}".encode(), digest_size=4).digest()
        # 31 bits: what every generator takes
        arguments = {**settings.reset, "seed": int.from_bytes(digest) >> 1}
        if settings.task_field is not None:
            arguments[settings.task_field] = task
        return _Episode(settings, arguments)


class _Episode(Episode):
    def __init__(self, settings: OpenEnvSettings, arguments: Mapping[str, JsonValue]) -> None:
        self._settings = settings
        self._arguments = arguments
        self._session = _Session(settings)
        self._rewarded = False

    async def begin(self) -> Observation:
        result = await self._session.reset(self._arguments)
        if result.done:
            return Observation(ended=Feedback(self._reward(result), done=True))
        settings = self._settings
        shown = _shown(result.observation, settings.observation)
        messages = [Message(role="user", content=shown)] if shown is not None else []
        if settings.instructions is not None:
            messages.insert(0, Message(role="system" if messages else "user", content=settings.instructions))
        if not messages:
            raise EnvironmentFailed("its first observation shows nothing; set args.instructions")
        return Observation(messages, await self._tools() if settings.actions == "tools" else ())

    async def step(self, message: Message) -> Feedback:
        settings = self._settings
        if settings.actions == "tools" and message.tool_calls:
            return await self._called(message.tool_calls)
        action: JsonValue
        if settings.actions == "json":
            try:
                action = json.loads(message.text())
            except ValueError:
                action = None
            if not isinstance(action, dict):
                return _refused(0.0)
        elif settings.actions == "tools" and settings.field is None:
            # an answer without calls is the last
            return Feedback(0.0, done=True)
        else:
            action = {settings.field or "message": message.text()}
        result = await self._session.step({**settings.fields, **action})
        if result is None:
            return _refused(0.0)
        messages = [] if result.done else [_message(result.observation, settings.observation)]
        return Feedback(self._reward(result), result.done, messages)

    async def close(self) -> None:
        await self._session.close()

    def _reward(self, result: Any) -> float:
        """The reward of a step. Many servers give none before the end."""
        if result.reward is not None:
            self._rewarded = True
            return checked_reward(result.reward)
        if result.done and not self._rewarded:
            # a server sends what is not finite as none
            raise EnvironmentFailed("it has ended without a finite reward in any step")
        return 0.0

    async def _tools(self) -> list[Tool]:
        result = await self._session.step({"type": "list_tools"})
        try:
            listed = [] if result is None else result.observation["tools"]
            tools = [
                Tool(name=each["name"], description=each["description"], parameters=each["input_schema"])
                for each in listed
            ]
        except (KeyError, TypeError, ValidationError) as error:
            raise EnvironmentFailed(f"its tools cannot be read: {error!r:.500}") from error
        if not tools:
            raise EnvironmentFailed("it has no tools; set args.actions to text or json")
        return tools

    async def _called(self, calls: Sequence[ToolCall]) -> Feedback:
        reward, messages = 0.0, []
        for call in calls:
            if not isinstance(call.arguments, dict):
                return _refused(reward)
            action = {
                **self._settings.fields,
                "type": "call_tool",
                "tool_name": call.name,
                "arguments": call.arguments,
            }
            result = await self._session.step(action)
            if result is None:
                return _refused(reward)
            reward += self._reward(result)
            if result.done:
                return Feedback(reward, done=True)
            messages.append(Message(role="tool", tool_call_id=call.id, content=_tool_text(result.observation)))
        return Feedback(reward, done=False, messages=messages)


class _Session:
    """A connection to a server, which has an environment of its own there."""

    def __init__(self, settings: OpenEnvSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._socket: Any = None

    async def connect(self) -> None:
        """Connect, and wait for a server that is not reachable.

        Raises:
            EnvironmentFailed: it was not reachable for too long.
        """
        await self._waited_for(None)

    async def reset(self, arguments: Mapping[str, JsonValue]) -> Any:
        """Connect, and begin an episode. A server that has no room for a session is waited for.

        Raises:
            EnvironmentFailed: it was not reachable for too long, or refuses.
        """
        return await self._waited_for(arguments)

    async def _waited_for(self, arguments: Mapping[str, JsonValue] | None) -> Any:
        loop = asyncio.get_running_loop()
        ends, pause = loop.time() + self._settings.connect_s, _PAUSE_S[0]
        while True:
            try:
                await self._connected()
                return None if arguments is None else await self._client.reset(**arguments)
            except Exception as error:
                await self.close()
                waits = not isinstance(error, RuntimeError) or _FULL in str(error)
                if not waits or loop.time() + pause > ends:
                    raise EnvironmentFailed(f"{self._settings.url}: {error!s:.500}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_S[1])

    async def _connected(self) -> None:
        from openenv.core import GenericEnvClient

        self._client = GenericEnvClient(
            base_url=self._settings.url,
            connect_timeout_s=self._settings.connect_s,
            message_timeout_s=_NO_LIMIT_S,
            max_message_size_mb=_MESSAGE_MB,
            mode="simulation",
        )
        await self._client.__aenter__()
        self._socket = self._client._ws

    async def step(self, action: Mapping[str, JsonValue]) -> Any:
        """Take an action; return None if the server refuses its form.

        Raises:
            EnvironmentFailed: the environment failed, or the connection is lost.
        """
        from websockets.protocol import State

        # its client would connect again, to another session that was never reset
        if self._client is None or self._socket.state is not State.OPEN:
            raise EnvironmentFailed(f"{self._settings.url}: the connection was lost")
        try:
            return await self._client.step(dict(action))
        except RuntimeError as error:
            if _REFUSED in str(error):
                return None
            raise EnvironmentFailed(f"{self._settings.url}: {error!s:.500}") from error
        except Exception as error:
            raise EnvironmentFailed(f"{self._settings.url}: the connection was lost: {error!s:.500}") from error

    async def close(self) -> None:
        """Close the connection, which ends the session. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                await client.close()


def _refused(reward: float) -> Feedback:
    """The end of an episode whose model gave an action that the server does not take."""
    return Feedback(reward, done=True, metrics={"refused": 1.0})


def _message(observation: Any, field: str | None) -> Message:
    shown = _shown(observation, field)
    return Message(role="user", content="{}" if shown is None else shown)


def _shown(observation: Any, field: str | None) -> str | None:
    """The text of an observation; None if it has no field."""
    if not isinstance(observation, Mapping):
        raise EnvironmentFailed(f"its observation is {type(observation).__name__}, not an object")
    if field is None:
        # what a server notes beside may differ each time
        rest = {name: value for name, value in observation.items() if name != "metadata"}
        return _text(rest) if rest else None
    if field not in observation:
        raise EnvironmentFailed(f"its observation has no field {field}; it has {', '.join(observation)}")
    return _text(observation[field])


def _tool_text(observation: Any) -> str:
    """The result of a tool, or its error."""
    if not isinstance(observation, Mapping):
        raise EnvironmentFailed(f"its observation is {type(observation).__name__}, not an object")
    if error := observation.get("error"):
        return _text(error.get("message", error) if isinstance(error, Mapping) else error)
    result = observation.get("result")
    if isinstance(result, Mapping) and "data" in result:
        result = result["data"]
    return _text(result)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
