"""A completion as a stream of events, and the fold that joins the events into the same completion.

A stream is ``start``, any number of ``delta`` and ``end`` (one ``end`` per answer), at most one ``usage``, then
``done`` or ``error``. ``seq`` counts from 0 without gaps, so that a reader detects a missing event.
"""

from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field, JsonValue, TypeAdapter

from crucible.completion import Choice, Completion, FinishReason, Thinking, TokenLogprob, Usage
from crucible.errors import Failure, MalformedAnswer, error_from
from crucible.prompt import Message, Part, Role, ToolCall
from crucible.values.json_types import FiniteJson, FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Count, Int64

T = TypeVar("T")


class StartEvent(Record):
    """The first event of a stream."""

    type: Literal["start"] = "start"
    seq: Count
    model: str | None = None
    request_id: str | None = None
    trace_id: str | None = None


class ToolCallDelta(Record):
    """A piece of the tool call at ``position``. The first has id and name; argument texts are concatenated."""

    position: Count
    id: str | None = None
    name: str | None = None
    arguments: FiniteObject | str | None = None


class DeltaEvent(Record):
    """A piece of the answer ``index``: text, thinking, refusal, token ids and log probabilities to append."""

    type: Literal["delta"] = "delta"
    seq: Count
    index: Count = 0
    text: str | None = None
    part: Part | None = None
    thinking: str | None = None
    refusal: str | None = None
    tool_call: ToolCallDelta | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    tokens: tuple[Int64, ...] | None = None


class EndEvent(Record):
    """The end of the answer ``index``."""

    type: Literal["end"] = "end"
    seq: Count
    index: Count = 0
    finish_reason: FinishReason | None = None
    raw_finish_reason: str | None = None
    thinking_tokens: Count | None = None
    name: str | None = None


class UsageEvent(Record):
    """The provider's final token counts."""

    type: Literal["usage"] = "usage"
    seq: Count
    usage: Usage


class ErrorEvent(Record):
    """The last event of a stream that failed."""

    type: Literal["error"] = "error"
    seq: Count
    failure: Failure


class DoneEvent(Record):
    """The last event of a complete stream."""

    type: Literal["done"] = "done"
    seq: Count
    latency_ms: float | None = None
    time_to_first_token_ms: float | None = None
    cost: float | None = None
    raw_response: FiniteJson = None
    metadata: FiniteObject = Field(default_factory=dict)


StreamEvent: TypeAlias = Annotated[
    StartEvent | DeltaEvent | EndEvent | UsageEvent | ErrorEvent | DoneEvent, Field(discriminator="type")
]


def read_event(data: JsonValue) -> StreamEvent:
    """Parse an event from its JSON. Raises pydantic's ValidationError."""
    event: StreamEvent = TypeAdapter[StreamEvent](StreamEvent).validate_python(data)
    return event


def fold(events: Iterable[StreamEvent]) -> Completion:
    """Join the events of a whole stream into a completion.

    Raises:
        MalformedAnswer: events are missing, out of order, or inconsistent.
        CrucibleError: the stream ended with this error.
    """
    folding = Folding()
    for event in events:
        folding.add(event)
    return folding.completion()


async def collect(events: AsyncIterable[StreamEvent]) -> Completion:
    """Join the events of an async stream into a completion. Raises as ``fold``."""
    folding = Folding()
    async for event in events:
        folding.add(event)
    return folding.completion()


@dataclass(slots=True)
class _Call:
    id: str | None = None
    name: str | None = None
    arguments: FiniteObject | str | None = None

    def add(self, delta: ToolCallDelta) -> None:
        self.id = self.id or delta.id
        self.name = self.name or delta.name
        if delta.arguments is None:
            return
        if self.arguments is None:
            self.arguments = delta.arguments
        elif isinstance(self.arguments, str) and isinstance(delta.arguments, str):
            self.arguments += delta.arguments
        else:
            raise MalformedAnswer(f"tool call {self.id}: arguments are both text and an object")


@dataclass(slots=True)
class _Answer:
    text: list[str] | None = None
    parts: list[Part] | None = None
    thinking: list[str] | None = None
    refusal: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[TokenLogprob] | None = None
    tokens: list[int] | None = None
    end: EndEvent | None = None

    def add(self, delta: DeltaEvent) -> None:
        if self.end is not None:
            raise MalformedAnswer(f"event {delta.seq}: a delta of answer {delta.index}, which has ended")
        if delta.text is not None:
            self.text = _appended(self.text or [], delta.text)
        if delta.part is not None:
            self.parts = _appended(self.parts or [], delta.part)
        if self.text is not None and self.parts is not None:
            raise MalformedAnswer(f"event {delta.seq}: answer {delta.index} has both plain text and parts")
        if delta.thinking is not None:
            self.thinking = _appended(self.thinking or [], delta.thinking)
        self.refusal += delta.refusal or ""
        if delta.tool_call is not None:
            self.calls.setdefault(delta.tool_call.position, _Call()).add(delta.tool_call)
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *delta.logprobs]
        if delta.tokens is not None:
            self.tokens = [*(self.tokens or ()), *delta.tokens]

    def choice(self, index: int) -> Choice:
        if self.end is None:
            raise MalformedAnswer(f"the stream ended before answer {index} did")
        return Choice(
            index=index,
            message=Message(
                role=Role.ASSISTANT,
                content=self._content(),
                refusal=self.refusal or None,
                name=self.end.name,
                tool_calls=tuple(_tool_call(call) for _, call in sorted(self.calls.items())),
            ),
            finish_reason=self.end.finish_reason,
            raw_finish_reason=self.end.raw_finish_reason,
            thinking=None
            if self.thinking is None
            else Thinking(content="".join(self.thinking), tokens=self.end.thinking_tokens),
            logprobs=None if self.logprobs is None else tuple(self.logprobs),
            tokens=None if self.tokens is None else tuple(self.tokens),
        )

    def _content(self) -> str | tuple[Part, ...] | None:
        if self.parts is not None:
            return tuple(self.parts)
        return None if self.text is None else "".join(self.text)


class Folding:
    """An incremental fold: ``add`` every event in order, then read the ``completion``."""

    def __init__(self) -> None:
        self._seq = -1
        self._start: StartEvent | None = None
        self._answers: dict[int, _Answer] = {}
        self._usage: Usage | None = None
        self._done: DoneEvent | None = None

    def add(self, event: StreamEvent) -> None:
        """Add the next event. Raises as ``fold``."""
        if event.seq != self._seq + 1:
            raise MalformedAnswer(f"event {event.seq} follows event {self._seq}: one is missing or repeated")
        if self._done is not None:
            raise MalformedAnswer(f"event {event.seq} ({event.type}) follows done")
        self._seq = event.seq
        if (self._start is None) != isinstance(event, StartEvent):
            raise MalformedAnswer(f"event {event.seq} is {event.type}; the first event, and no other, is start")
        match event:
            case StartEvent():
                self._start = event
            case DeltaEvent():
                self._answers.setdefault(event.index, _Answer()).add(event)
            case EndEvent():
                answer = self._answers.setdefault(event.index, _Answer())
                if answer.end is not None:
                    raise MalformedAnswer(f"event {event.seq}: answer {event.index} ended twice")
                answer.end = event
            case UsageEvent():
                self._usage = event.usage
            case DoneEvent():
                self._done = event
            case ErrorEvent():
                raise error_from(event.failure)

    def completion(self) -> Completion:
        """Return the completion. Raises MalformedAnswer before the end of the stream."""
        if self._start is None or self._done is None:
            raise MalformedAnswer(f"the stream ended after event {self._seq}, without done")
        return Completion(
            choices=tuple(answer.choice(index) for index, answer in sorted(self._answers.items())),
            model=self._start.model,
            usage=self._usage,
            latency_ms=self._done.latency_ms,
            time_to_first_token_ms=self._done.time_to_first_token_ms,
            request_id=self._start.request_id,
            trace_id=self._start.trace_id,
            cost=self._done.cost,
            raw_response=self._done.raw_response,
            metadata=self._done.metadata,
        )


def events_of(completion: Completion, *, piece_chars: int = 64) -> Iterator[StreamEvent]:
    """Split a completion into events whose texts have at most ``piece_chars`` characters; the inverse of ``fold``.

    For backends whose service does not stream.
    """
    seq = 0
    yield StartEvent(
        seq=seq, model=completion.model, request_id=completion.request_id, trace_id=completion.trace_id
    )
    for choice in completion.choices:
        for delta in _deltas(choice, piece_chars):
            seq += 1
            yield delta.model_copy(update={"seq": seq, "index": choice.index})
        seq += 1
        yield EndEvent(
            seq=seq,
            index=choice.index,
            finish_reason=choice.finish_reason,
            raw_finish_reason=choice.raw_finish_reason,
            thinking_tokens=choice.thinking.tokens if choice.thinking else None,
            name=choice.message.name,
        )
    if completion.usage is not None:
        seq += 1
        yield UsageEvent(seq=seq, usage=completion.usage)
    yield DoneEvent(
        seq=seq + 1,
        latency_ms=completion.latency_ms,
        time_to_first_token_ms=completion.time_to_first_token_ms,
        cost=completion.cost,
        raw_response=completion.raw_response,
        metadata=completion.metadata,
    )


def _deltas(choice: Choice, piece_chars: int) -> Iterator[DeltaEvent]:
    if choice.thinking is not None:
        for piece in _pieces(choice.thinking.content, piece_chars):
            yield DeltaEvent(seq=0, thinking=piece)
    if choice.message.refusal is not None:
        yield DeltaEvent(seq=0, refusal=choice.message.refusal)
    content = choice.message.content
    if isinstance(content, str):
        for piece in _pieces(content, piece_chars):
            yield DeltaEvent(seq=0, text=piece)
    else:
        for part in content or ():
            yield DeltaEvent(seq=0, part=part)
    for position, call in enumerate(choice.message.tool_calls):
        named = ToolCallDelta(position=position, id=call.id, name=call.name, arguments=call.arguments)
        yield DeltaEvent(seq=0, tool_call=named)
    if choice.tokens is not None or choice.logprobs is not None:
        yield DeltaEvent(seq=0, tokens=choice.tokens, logprobs=choice.logprobs)


def _pieces(text: str, size: int) -> Iterator[str]:
    """Split a text into at least one piece: an empty text differs from no text."""
    for start in range(0, max(1, len(text)), size):
        yield text[start : start + size]


def _tool_call(call: _Call) -> ToolCall:
    if call.id is None or call.name is None:
        raise MalformedAnswer(f"a tool call has no {'id' if call.id is None else 'name'}")
    return ToolCall(id=call.id, name=call.name, arguments={} if call.arguments is None else call.arguments)


def _appended(items: list[T], item: T) -> list[T]:
    items.append(item)
    return items
