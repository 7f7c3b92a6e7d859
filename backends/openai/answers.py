"""Conversion of chat completions, whole or streamed, to completions and stream events."""

import time
from collections.abc import Iterator
from typing import Any, Final

from crucible.completion import (
    Choice,
    Completion,
    FinishReason,
    Thinking,
    TokenLogprob,
    TopLogprob,
    Usage,
    UsageSource,
)
from crucible.durations import elapsed_ms
from crucible.errors import BackendUnavailable, MalformedAnswer
from crucible.prompt import Message, Prompt, Role, ToolCall
from crucible.stream import (
    DeltaEvent,
    DoneEvent,
    EndEvent,
    StartEvent,
    StreamEvent,
    ToolCallDelta,
    UsageEvent,
)

_FINISH: Final = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_CHARS_PER_TOKEN: Final = 4


def choice_of(index: int, wire: Any) -> Choice:
    """Convert one choice. ``wire`` is the library's object, of which servers may omit any field."""
    message = wire.message
    calls = tuple(
        ToolCall(id=call.id or f"call-{number}", name=call.function.name, arguments=call.function.arguments or "")
        for number, call in enumerate(message.tool_calls or ())
        if getattr(call, "function", None) is not None
    )
    thinking = _thinking(message)
    return Choice(
        index=index,
        message=Message(role=Role.ASSISTANT, content=message.content or (None if calls else ""), tool_calls=calls),
        finish_reason=_finish(wire.finish_reason),
        raw_finish_reason=wire.finish_reason,
        thinking=None if thinking is None else Thinking(content=thinking),
        logprobs=_logprobs(wire),
    )


def completion_of(
    answer: Any,
    choices: tuple[Choice, ...],
    *,
    prompt: Prompt,
    model: str,
    usage: Usage,
    cost: float | None,
    began: float,
    keep_raw: bool,
) -> Completion:
    """The completion of a whole answer. ``began`` is the monotonic time of the request."""
    return Completion(
        choices=choices,
        model=answer.model or model,
        usage=usage,
        latency_ms=elapsed_ms(began),
        request_id=prompt.request_id or answer.id,
        trace_id=prompt.trace_id,
        cost=cost,
        raw_response=answer.model_dump(mode="json") if keep_raw else None,
    )


def text_of(choices: tuple[Choice, ...]) -> str:
    """The text of all choices, from which a missing usage is estimated."""
    return "".join(choice.message.text() for choice in choices)


def usage_of(wire: Any, prompt: Prompt, text: str) -> Usage:
    """The usage that the server reported; without a report, an estimate, marked as one."""
    if wire is None:
        prompt_tokens = sum(len(message.text()) for message in prompt.conversation()) // _CHARS_PER_TOKEN
        estimate = Usage.of(prompt_tokens, len(text) // _CHARS_PER_TOKEN)
        return estimate.model_copy(update={"source": UsageSource.ESTIMATED})
    cached = getattr(getattr(wire, "prompt_tokens_details", None), "cached_tokens", None)
    thinking = getattr(getattr(wire, "completion_tokens_details", None), "reasoning_tokens", None)
    prompt_tokens, completion_tokens = wire.prompt_tokens or 0, wire.completion_tokens or 0
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens if wire.total_tokens is None else wire.total_tokens,
        cached_tokens=cached,
        thinking_tokens=thinking,
    )


def price(usage: Usage, per_million_input: float, per_million_output: float) -> float:
    """The cost of a usage at prices per million tokens."""
    return (usage.prompt_tokens * per_million_input + usage.completion_tokens * per_million_output) / 1e6


class ChunkConverter:
    """Converts the chunks of one stream to events. Create it before the request is sent: it measures latency."""

    def __init__(self, prompt: Prompt, model: str) -> None:
        self._prompt = prompt
        self._model = model
        self._began = time.monotonic()
        self._first_ms: float | None = None
        self._started = False
        self._seq = 0
        self.text = ""
        self.usage: Any = None
        self._answered: set[int] = set()
        self._open: set[int] = set()
        self._ended: set[int] = set()

    def events(self, chunk: Any) -> Iterator[StreamEvent]:
        """Yield the events of one chunk."""
        if not self._started:
            self._started = True
            yield StartEvent(
                seq=0,
                model=chunk.model or self._model,
                request_id=self._prompt.request_id or chunk.id,
                trace_id=self._prompt.trace_id,
            )
        if getattr(chunk, "usage", None) is not None:
            self.usage = chunk.usage
        for wire in chunk.choices or ():
            for event in self._of_choice(wire):
                self._first_ms = self._first_ms or elapsed_ms(self._began)
                yield event

    def require_end(self) -> None:
        """Raise BackendUnavailable if the stream broke off before every answer had ended."""
        if not self._ended or self._open - self._ended:
            raise BackendUnavailable("the stream broke off before the answer had ended", backend="openai")

    def closing_events(self, usage: Usage, cost: float | None) -> Iterator[StreamEvent]:
        """Yield the last events of the stream."""
        yield UsageEvent(seq=self._next(), usage=usage)
        yield DoneEvent(
            seq=self._next(),
            latency_ms=elapsed_ms(self._began),
            time_to_first_token_ms=self._first_ms,
            cost=cost,
        )

    def _of_choice(self, wire: Any) -> Iterator[StreamEvent]:
        index, delta = wire.index, wire.delta
        self._open.add(index)
        if index in self._ended:
            # some servers send the usage with one more empty delta
            if delta is not None and (delta.content or delta.tool_calls):
                raise MalformedAnswer(f"answer {index} continues after its end", backend="openai")
            return
        if delta is not None:
            yield from self._of_delta(index, delta, wire)
        if wire.finish_reason is None:
            return
        if index not in self._answered:
            yield self._numbered(DeltaEvent(seq=0, index=index, text=""))
        self._ended.add(index)
        yield EndEvent(
            seq=self._next(),
            index=index,
            finish_reason=_finish(wire.finish_reason),
            raw_finish_reason=wire.finish_reason,
        )

    def _of_delta(self, index: int, delta: Any, wire: Any) -> Iterator[StreamEvent]:
        thinking, logprobs = _thinking(delta), _logprobs(wire)
        if delta.content or thinking or logprobs:
            if delta.content:
                self._answered.add(index)
                self.text += delta.content
            yield self._numbered(
                DeltaEvent(
                    seq=0, index=index, text=delta.content or None, thinking=thinking or None, logprobs=logprobs
                )
            )
        for call in delta.tool_calls or ():
            self._answered.add(index)
            function = call.function
            tool_call = ToolCallDelta(
                position=call.index,
                id=call.id,
                name=getattr(function, "name", None),
                arguments=getattr(function, "arguments", None) or "",
            )
            yield self._numbered(DeltaEvent(seq=0, index=index, tool_call=tool_call))

    def _numbered(self, event: DeltaEvent) -> DeltaEvent:
        return event.model_copy(update={"seq": self._next()})

    def _next(self) -> int:
        self._seq += 1
        return self._seq


def _finish(reason: str | None) -> FinishReason | None:
    return None if reason is None else _FINISH.get(reason, FinishReason.STOP)


def _thinking(message: Any) -> str | None:
    """The reasoning text, in either of the two fields that servers add to the protocol."""
    for name in ("reasoning_content", "reasoning"):
        value = getattr(message, name, None)
        if isinstance(value, str):
            return value
    return None


def _logprobs(wire: Any) -> tuple[TokenLogprob, ...] | None:
    content = getattr(getattr(wire, "logprobs", None), "content", None)
    if content is None:
        return None
    return tuple(
        TokenLogprob(
            token=item.token,
            logprob=item.logprob,
            top=tuple(TopLogprob(token=other.token, logprob=other.logprob) for other in item.top_logprobs or ()),
        )
        for item in content
    )
