"""The wire format of answers: chat completions and chunks, as servers write them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from backends.openai.errors import error_in_answer
from backends.openai.settings import BACKEND
from crucible.errors import MalformedAnswer


def _none_if_empty(value: object) -> object:
    return value or None


def as_text(value: object) -> object:
    """A text without lone surrogates, which are halves of characters: no text of ours can hold them."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _as_label(value: object) -> object:
    return str(value) if isinstance(value, int) else as_text(value)


Text = Annotated[str, BeforeValidator(as_text)]
Label = Annotated[str, BeforeValidator(_as_label)]


class WireRecord(BaseModel):
    """A part of an answer. Fields that servers add are ignored; any field may be missing or null."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class WireFunction(WireRecord):
    """The function of a tool call, or a piece of it."""

    name: Text | None = None
    arguments: Text | dict[str, Any] | None = None


class WireCall(WireRecord):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: Label | None = None
    function: Annotated[WireFunction | None, BeforeValidator(_none_if_empty)] = None


class WirePart(WireRecord):
    """A part of a content that is a list."""

    type: Text
    text: Text | None = None
    thinking: "Text | list[WirePart] | None" = None
    reasoning: Text | None = None
    refusal: Text | None = None


class WireTurn(WireRecord):
    """A message, or the delta of one."""

    content: Text | list[WirePart | Text] | None = None
    refusal: Text | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking_blocks: Any = None
    tool_calls: Annotated[list[WireCall | None] | None, BeforeValidator(_none_if_empty)] = None
    function_call: Annotated[WireFunction | None, BeforeValidator(_none_if_empty)] = None


class WireTopLogprob(WireRecord):
    """A candidate token."""

    token: Text
    logprob: float | None = None


class WireLogprob(WireTopLogprob):
    """A generated token."""

    top_logprobs: list[WireTopLogprob] | None = None


class WireLogprobs(WireRecord):
    """The log probabilities of an answer's tokens, or of a refusal's."""

    content: list[WireLogprob] | None = None
    refusal: list[WireLogprob] | None = None


class WireChoice(WireRecord):
    """A choice, or the piece of one in a chunk."""

    index: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    message: Annotated[WireTurn | None, BeforeValidator(_none_if_empty)] = None
    delta: Annotated[WireTurn | None, BeforeValidator(_none_if_empty)] = None
    finish_reason: Label | None = None
    logprobs: Annotated[WireLogprobs | None, BeforeValidator(_none_if_empty)] = None
    usage: Any = None
    error: Any = None


class WireAnswer(WireRecord):
    """A chat completion or a chunk."""

    id: Label | None = None
    model: Text | None = None
    choices: list[WireChoice] | None = None
    usage: Any = None
    x_groq: Any = None

    @property
    def reported_usage(self) -> object:
        """The usage, wherever the server puts it."""
        group = self.x_groq.get("usage") if isinstance(self.x_groq, Mapping) else None
        return self.usage or group or next((choice.usage for choice in self.choices or () if choice.usage), None)


def read_answer(data: object, model: str | None, *, backend: str = BACKEND) -> WireAnswer:
    """Read a chat completion or a chunk.

    Raises:
        MalformedAnswer: it is neither.
        CrucibleError: it is an error, which some servers send with status 200 or in a stream; in its own class.
    """
    if not isinstance(data, Mapping):
        raise malformed(f"it is {_shown(data)} instead of an object", backend)
    error = data.get("error") or (data if data.get("object") == "error" else None)
    if not error and "choices" not in data:
        error = data.get("detail") or (data if isinstance(data.get("message"), str) else None)
    if error:
        raise error_in_answer(error, model, backend=backend)
    try:
        answer = WireAnswer.model_validate(data)
    except (ValidationError, RecursionError) as exc:
        raise malformed(_first_problem(exc), backend) from None
    for choice in answer.choices or ():
        if choice.error:
            raise error_in_answer(choice.error, model, backend=backend)
    return answer


def malformed(why: str, backend: str = BACKEND) -> MalformedAnswer:
    """The error for an answer that does not follow the protocol."""
    return MalformedAnswer(f"the answer does not follow the protocol: {why}", backend=backend)


def _shown(data: object) -> str:
    text = data if isinstance(data, str) else type(data).__name__
    return repr(text[:200])


def _first_problem(exc: ValidationError | RecursionError) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    problem = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


class _WireModel(WireRecord):
    id: Text


class _WireModels(WireRecord):
    data: list[_WireModel] | None = None


def read_models(data: object) -> tuple[str, ...]:
    """Read the names of a list of models. Raises MalformedAnswer."""
    try:
        return tuple(model.id for model in _WireModels.model_validate(data).data or ())
    except (ValidationError, RecursionError) as exc:
        raise malformed(f"the list of models: {_first_problem(exc)}") from None
