"""Environments of the package verifiers: conversations that its environments lead, with their rubrics as rewards.

An environment of that package leads its rollouts itself, and asks a client of OpenAI's API for each answer. Here
that client hands the request to the episode, and waits for the message of the model.
"""

import asyncio
import importlib.util
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import packages_distributions, requires
from types import SimpleNamespace
from typing import Any, Final, Literal

from pydantic import Field, JsonValue, ValidationError

from crucible.environments.contract import Environment, Episode, Feedback, Observation
from crucible.environments.rewards import checked_reward
from crucible.errors import CommandMissing, EnvironmentFailed, InvalidRequest
from crucible.prompt import Message, Tool
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.record_reader import read_record

_PACKAGE: Final = "verifiers"
_MODEL: Final = "policy"
_loading = threading.Lock()


class VerifiersSettings(Record):
    """The settings of the environment ``verifiers``.

    ``id`` is the name of an environment, which is that of its installed package; ``args`` are its settings.
    ``split`` is the data set whose rows are the tasks.
    """

    id: str = Field(pattern=r"^([A-Za-z0-9_-]+/)?[A-Za-z][A-Za-z0-9_-]*$", max_length=200)
    args: FiniteObject = Field(default_factory=dict)
    split: Literal["train", "eval"] = "train"


class VerifiersEnvironment(Environment):
    """An environment of the package verifiers, 0.1. A task is a row of its data set."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        """Find the environment; ``open`` loads it.

        Raises:
            InvalidRequest: a setting is invalid, or no installed package has the environment; the error names it.
            CommandMissing: the package verifiers is not installed here.
        """
        self._settings = read_record(VerifiersSettings, dict(settings or {}))
        _require_installed(self._settings.id)
        self._environment: Any = None
        self._rows: Any = ()

    async def open(self) -> None:
        self._environment, self._rows = await asyncio.to_thread(self._load)

    def tasks(self) -> int:
        return len(self._rows)

    async def start(self, task: int, seed: int) -> Episode:
        del seed  # an environment of this package takes none
        if not 0 <= task < len(self._rows):
            raise InvalidRequest.of("task", task, f"0 to {len(self._rows) - 1}")
        return _Rollout(self._environment, dict(self._rows[task]))

    def _load(self) -> tuple[Any, Any]:
        import verifiers

        settings = self._settings
        try:
            with _loading, _own_signals():
                environment = verifiers.load_environment(settings.id, **settings.args)
        except Exception as error:
            raise InvalidRequest.of(
                "args.args", settings.args, f"{settings.id} refuses it: {error!r:.500}"
            ) from error
        if environment.message_type != "chat":
            raise InvalidRequest.of("args.id", settings.id, "it completes texts; conversations are trained here")
        if any(rubric._get_group_reward_funcs() for rubric in _rubrics(environment.rubric)):
            raise InvalidRequest.of("args.id", settings.id, "its rubric compares the answers of a group")
        rows = environment.get_dataset() if settings.split == "train" else environment.get_eval_dataset()
        return environment, rows


class _Rollout(Episode):
    """A rollout that an environment leads, in a task of its own."""

    def __init__(self, environment: Any, row: dict[str, Any]) -> None:
        self._environment = environment
        self._row = row
        self._asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answered: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._shown: list[Any] = []
        self._tools: Any = None

    async def begin(self) -> Observation:
        completions = SimpleNamespace(create=self._create)
        client = SimpleNamespace(chat=SimpleNamespace(completions=completions))
        self._task = asyncio.create_task(self._environment.rollout(self._row, client, _MODEL, {}))
        request = await self._next()
        if request is None:
            return Observation(ended=await self._scored())
        self._shown, self._tools = list(request["messages"]), request.get("tools")
        return Observation(_messages(self._shown), [Tool.model_validate(each) for each in self._tools or ()])

    async def step(self, message: Message) -> Feedback:
        if self._answered is None or self._task is None:
            raise EnvironmentFailed("the environment waits for no message")
        answer = _completion(message)
        self._answered.set_result(answer)
        self._answered = None
        request = await self._next()
        if request is None:
            return await self._scored()
        known = len(self._shown) + 1
        if request["messages"][: known - 1] != self._shown or request.get("tools") != self._tools:
            raise EnvironmentFailed("it has changed the messages or the tools that the model was shown")
        self._shown = list(request["messages"])
        return Feedback(0.0, done=False, messages=_messages(self._shown[known:]))

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def _create(self, **request: Any) -> Any:
        self._answered = asyncio.get_running_loop().create_future()
        answered = self._answered
        self._asked.put_nowait(request)
        return await answered

    async def _next(self) -> dict[str, Any] | None:
        """The next request of the rollout; None if it has ended."""
        assert self._task is not None
        asked = asyncio.create_task(self._asked.get())
        try:
            await asyncio.wait([asked, self._task], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
        finally:
            asked.cancel()
        return None

    async def _scored(self) -> Feedback:
        assert self._task is not None
        state = await self._task
        if state.get("error") is not None:
            raise EnvironmentFailed(f"the rollout has failed: {state['error']!r:.500}")
        await self._environment.rubric.score_rollout(state, score_sem=nullcontext())
        metrics = {str(name): checked_reward(value) for name, value in (state["metrics"] or {}).items()}
        return Feedback(checked_reward(state["reward"]), done=True, metrics=metrics)


def _messages(shown: Sequence[Any]) -> list[Message]:
    try:
        return [Message.model_validate(dict(each)) for each in shown]
    except (TypeError, ValueError, ValidationError) as error:
        raise EnvironmentFailed(f"it shows a message that cannot be read: {error!s:.500}") from error


def _completion(message: Message) -> Any:
    """The model's message as an answer of OpenAI's API."""
    from openai.types.chat import ChatCompletion

    content: dict[str, Any] = {"role": "assistant", "content": message.text()}
    if message.tool_calls:
        content["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_text()},
            }
            for call in message.tool_calls
        ]
    ended = "tool_calls" if message.tool_calls else "stop"
    choice = {"index": 0, "message": content, "finish_reason": ended}
    whole = {"id": _MODEL, "object": "chat.completion", "created": 0, "model": _MODEL, "choices": [choice]}
    return ChatCompletion.model_validate(whole)


def _rubrics(rubric: Any) -> Iterator[Any]:
    """A rubric, and those that it consists of."""
    if not hasattr(rubric, "rubrics"):
        yield rubric
    for part in getattr(rubric, "rubrics", ()):
        yield from _rubrics(part)


def _require_installed(name: str) -> None:
    """Check that an environment belongs to a package that was made for verifiers: a job must not import others."""
    if importlib.util.find_spec(_PACKAGE) is None:
        raise CommandMissing(
            "environment verifiers: the package verifiers is not installed; pip install 'verifiers<0.1.10'",
            details={"field": "environment.name"},
        )
    module = name.replace("-", "_").rpartition("/")[2]
    needed = [each for package in packages_distributions().get(module, ()) for each in requires(package) or ()]
    if not any(re.match(rf"{_PACKAGE}\b", each) for each in needed):
        raise InvalidRequest.of(
            "args.id", name, f"no installed package with the module {module} requires verifiers; install it"
        )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep an environment from taking the signals of this process, which ends in an order of its own."""
    from verifiers.envs import environment

    kept = environment.signal
    handlers = {name: getattr(kept, name) for name in ("SIGINT", "SIGTERM", "default_int_handler")}
    environment.signal = SimpleNamespace(signal=lambda *_: None, **handlers)
    try:
        yield
    finally:
        environment.signal = kept
