"""Conversion of the chunks of a streamed chat completion to stream events."""

import time
from collections.abc import Iterator
from typing import Any, Final

from pydantic import JsonValue

from backends.openai.answers import content_of, finish_reason, logprobs_of, wire_calls
from backends.openai.settings import BACKEND
from backends.openai.tool_calls import CallJoiner
from backends.openai.wire import WireChoice, WireTurn, malformed, read_answer
from crucible.completion import Usage
from crucible.errors import BackendUnavailable
from crucible.prompt import Prompt
from crucible.stream import DeltaEvent, DoneEvent, EndEvent, StartEvent, StreamEvent, ToolCallDelta, UsageEvent
from crucible.values.durations import elapsed_ms

_MAX_RECEIVED_CHARS: Final = 100_000


class _Choice:
    """The state of one answer in a stream."""

    def __init__(self, backend: str) -> None:
        self.calls = CallJoiner(backend)
        self.has_content = False
        self.refused = False
        self.ended = False
        self.raw_reason: str | None = None


class ChunkConverter:
    """Converts the chunks of one stream to events. Create it before the request is sent: it measures latency."""

    def __init__(self, prompt: Prompt, model: str, *, backend: str = BACKEND) -> None:
        self._prompt = prompt
        self._model = model
        self._backend = backend
        self._began = time.monotonic()
        self._first_ms: float | None = None
        self._seq = -1
        self._choices: dict[int, _Choice] = {}
        self.text = ""
        self.usage: Any = None

    def events(self, data: object) -> Iterator[StreamEvent]:
        """Yield the events of one chunk. Raises the error that it holds, or MalformedAnswer."""
        chunk = read_answer(data, self._model, backend=self._backend)
        if self._seq < 0:
            yield StartEvent(
                seq=self._next(),
                model=chunk.model or self._model,
                request_id=self._prompt.request_id or chunk.id,
                trace_id=self._prompt.trace_id,
            )
        self.usage = chunk.reported_usage or self.usage
        for wire in chunk.choices or ():
            for event in self._of_choice(wire):
                self._first_ms = self._first_ms or elapsed_ms(self._began)
                yield event

    def end_of_stream(self, *, complete: bool) -> Iterator[StreamEvent]:
        """Yield the ends of answers for which the server gave none.

        ``complete``: the stream ended as the protocol says, rather than the connection.

        Raises:
            BackendUnavailable: the stream broke off.
            MalformedAnswer: it had no answer.
        """
        if complete and not self._choices:
            raise malformed("the stream has no choices", self._backend)
        if not complete and (not self._choices or not all(choice.ended for choice in self._choices.values())):
            raise BackendUnavailable(
                "the stream broke off before the answer had ended", backend=self._backend, details=self.received()
            )
        for index, choice in sorted(self._choices.items()):
            if not choice.ended:
                yield from self._end(index, choice)

    def received(self) -> dict[str, JsonValue]:
        """The text that has arrived, for the details of an error."""
        return {"received": self.text[:_MAX_RECEIVED_CHARS]} if self.text else {}

    def closing_events(self, usage: Usage, cost: float | None) -> Iterator[StreamEvent]:
        """Yield the last events of the stream."""
        yield UsageEvent(seq=self._next(), usage=usage)
        yield DoneEvent(
            seq=self._next(),
            latency_ms=elapsed_ms(self._began),
            time_to_first_token_ms=self._first_ms,
            cost=cost,
        )

    def _of_choice(self, wire: WireChoice) -> Iterator[StreamEvent]:
        index = wire.index or 0
        choice = self._choices.setdefault(index, _Choice(self._backend))
        message = wire.delta or wire.message
        if message is not None:
            yield from self._of_message(index, choice, message, wire)
        if wire.finish_reason is not None:
            choice.raw_reason = wire.finish_reason
        # some servers write "" until the end
        if wire.finish_reason and not choice.ended:
            yield from self._end(index, choice)

    def _of_message(
        self, index: int, choice: _Choice, message: WireTurn, wire: WireChoice
    ) -> Iterator[StreamEvent]:
        content, logprobs = content_of(message, self._backend), logprobs_of(wire.logprobs)
        calls = wire_calls(message)
        has_text = content.text or content.thinking or content.refusal
        if choice.ended:
            # some servers send the usage with one more empty delta
            if has_text or any(calls):
                raise malformed(f"answer {index} continues after its end", self._backend)
            return
        if has_text or logprobs:
            choice.has_content = choice.has_content or bool(content.text or content.refusal)
            choice.refused = choice.refused or bool(content.refusal)
            self.text += content.text or content.refusal or ""
            yield DeltaEvent(
                seq=self._next(),
                index=index,
                text=content.text,
                thinking=content.thinking,
                refusal=content.refusal,
                logprobs=logprobs,
            )
        for call in calls:
            for delta in choice.calls.add(call):
                yield self._of_call(index, choice, delta)

    def _of_call(self, index: int, choice: _Choice, delta: ToolCallDelta) -> DeltaEvent:
        choice.has_content = True
        return DeltaEvent(seq=self._next(), index=index, tool_call=delta)

    def _end(self, index: int, choice: _Choice) -> Iterator[StreamEvent]:
        for delta in choice.calls.closing():
            yield self._of_call(index, choice, delta)
        if not choice.has_content:
            yield DeltaEvent(seq=self._next(), index=index, text="")
        choice.ended = True
        yield EndEvent(
            seq=self._next(),
            index=index,
            finish_reason=finish_reason(choice.raw_reason, refused=choice.refused, calls=choice.calls.any),
            raw_finish_reason=choice.raw_reason,
        )

    def _next(self) -> int:
        self._seq += 1
        return self._seq
