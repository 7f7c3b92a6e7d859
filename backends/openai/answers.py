"""From a chat completion, whole or in chunks, to a completion and its events."""

from collections.abc import Iterator
from typing import Any, Final

from crucible.completion import Choice, FinishReason, Thinking, TokenLogprob, TopLogprob, Usage, UsageSource
from crucible.errors import BackendUnavailable, MalformedAnswer
from crucible.prompt import Message, Prompt, Role, ToolCall
from crucible.stream import DeltaEvent, EndEvent, StreamEvent, ToolCallDelta

_FINISH: Final = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_CHARS_PER_TOKEN: Final = 4


def choice_of(index: int, wire: Any) -> Choice:
    """One answer. ``wire`` is the library's object; servers leave fields out, so each may be missing."""
    message = wire.message
    calls = tuple(
        ToolCall(id=call.id or f"call-{number}", name=call.function.name, arguments=call.function.arguments or "")
        for number, call in enumerate(message.tool_calls or ())
        if getattr(call, "function", None) is not None
    )
    thought = _thought(message)
    return Choice(
        index=index,
        message=Message(role=Role.ASSISTANT, content=message.content or (None if calls else ""), tool_calls=calls),
        finish_reason=_finish(wire.finish_reason),
        raw_finish_reason=wire.finish_reason,
        thinking=None if thought is None else Thinking(content=thought),
        logprobs=_logprobs(wire),
    )


def usage_of(wire: Any, prompt: Prompt, said: str) -> Usage:
    """What the server counted; where it counted nothing, an estimate that says so."""
    if wire is None:
        asked = sum(len(message.text()) for message in prompt.conversation()) // _CHARS_PER_TOKEN
        estimated = Usage.of(asked, len(said) // _CHARS_PER_TOKEN)
        return estimated.model_copy(update={"source": UsageSource.ESTIMATED})
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


class Chunks:
    """Chunks of a stream on their way to events, which ``seq`` numbers; ``StartEvent`` was number 0."""

    def __init__(self) -> None:
        self.seq = 0
        self.said = ""
        self.usage: Any = None
        self._spoken: set[int] = set()
        self._open: set[int] = set()
        self._ended: set[int] = set()

    def events(self, chunk: Any) -> Iterator[StreamEvent]:
        """The events of one chunk."""
        if getattr(chunk, "usage", None) is not None:
            self.usage = chunk.usage
        for wire in chunk.choices or ():
            yield from self._of_choice(wire)

    def finish(self) -> None:
        """Raises BackendUnavailable when the stream broke off before every answer had ended."""
        if not self._ended or self._open - self._ended:
            raise BackendUnavailable("the stream broke off before the answer had ended", backend="openai")

    def _of_choice(self, wire: Any) -> Iterator[StreamEvent]:
        index, delta = wire.index, wire.delta
        self._open.add(index)
        if index in self._ended:
            # Some servers send the usage with one more empty piece.
            if delta is not None and (delta.content or delta.tool_calls):
                raise MalformedAnswer(f"answer {index} goes on after its end", backend="openai")
            return
        if delta is not None:
            yield from self._of_delta(index, delta, wire)
        if wire.finish_reason is None:
            return
        if index not in self._spoken:
            yield self._numbered(DeltaEvent(seq=0, index=index, text=""))
        self._ended.add(index)
        yield EndEvent(
            seq=self._next(),
            index=index,
            finish_reason=_finish(wire.finish_reason),
            raw_finish_reason=wire.finish_reason,
        )

    def _of_delta(self, index: int, delta: Any, wire: Any) -> Iterator[StreamEvent]:
        thought, logprobs = _thought(delta), _logprobs(wire)
        if delta.content or thought or logprobs:
            if delta.content:
                self._spoken.add(index)
                self.said += delta.content
            yield self._numbered(
                DeltaEvent(
                    seq=0, index=index, text=delta.content or None, thinking=thought or None, logprobs=logprobs
                )
            )
        for call in delta.tool_calls or ():
            self._spoken.add(index)
            function = call.function
            piece = ToolCallDelta(
                position=call.index,
                id=call.id,
                name=getattr(function, "name", None),
                arguments=getattr(function, "arguments", None) or "",
            )
            yield self._numbered(DeltaEvent(seq=0, index=index, tool_call=piece))

    def _numbered(self, event: DeltaEvent) -> DeltaEvent:
        return event.model_copy(update={"seq": self._next()})

    def _next(self) -> int:
        self.seq += 1
        return self.seq


def _finish(word: str | None) -> FinishReason | None:
    return None if word is None else _FINISH.get(word, FinishReason.STOP)


def _thought(message: Any) -> str | None:
    """Servers put it under one of two names that the library does not know."""
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
