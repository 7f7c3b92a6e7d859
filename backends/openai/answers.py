"""Conversion of whole chat completions to completions; usage and prices."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from backends.openai.settings import BACKEND
from backends.openai.tool_calls import calls_of
from backends.openai.wire import (
    WireAnswer,
    WireCall,
    WireChoice,
    WireLogprobs,
    WirePart,
    WireTopLogprob,
    WireTurn,
    as_text,
    malformed,
)
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
from crucible.prompt import Message, Prompt, Role
from crucible.values.durations import elapsed_ms

_FINISH: Final[Mapping[FinishReason, tuple[str, ...]]] = {
    FinishReason.STOP: ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed", "complete"),
    FinishReason.LENGTH: (
        "length", "max_tokens", "max_output_tokens", "model_length", "max_length", "model_context_window_exceeded"
    ),
    FinishReason.TOOL_CALLS: ("tool_calls", "tool_call", "tool_use", "function_call"),
    FinishReason.CONTENT_FILTER: (
        "content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii",
        "sensitive", "guardrail_intervened", "guardrails",
    ),
    FinishReason.REFUSAL: ("refusal",),
    FinishReason.ERROR: (
        "error", "network_error", "abort", "aborted", "cancelled", "canceled", "timeout",
        "insufficient_system_resource", "malformed_function_call", "failed", "failure", "exception",
    ),
}  # fmt: skip
_BY_REASON: Final = {name: reason for reason, names in _FINISH.items() for name in names}
_CHARS_PER_TOKEN: Final = 4
_LEAST_LOGPROB: Final = -9999.0
"""OpenAI's value for a token of probability 0, whose logarithm JSON cannot represent."""
_TEXT_PARTS: Final = ("text", "output_text")
_THINKING_PARTS: Final = ("thinking", "reasoning", "reasoning_text")


@dataclass(frozen=True, slots=True)
class Content:
    """The texts of a message or a delta. None where there is no text."""

    text: str | None
    thinking: str | None
    refusal: str | None


def choices_of(answer: WireAnswer, backend: str = BACKEND) -> tuple[Choice, ...]:
    """Convert the choices of a whole answer, numbered in order. Raises MalformedAnswer."""
    if not answer.choices:
        raise malformed("it has no choices", backend)
    ordered = sorted(answer.choices, key=lambda choice: choice.index or 0)
    return tuple(_choice(index, wire, backend) for index, wire in enumerate(ordered))


def _choice(index: int, wire: WireChoice, backend: str) -> Choice:
    message = wire.message or wire.delta
    if message is None:
        raise malformed(f"choices.{index}.message is missing", backend)
    calls = calls_of(wire_calls(message), backend)
    content = content_of(message, backend)
    text = content.text or (None if calls or content.refusal else "")
    return Choice(
        index=index,
        message=Message(role=Role.ASSISTANT, content=text, tool_calls=calls, refusal=content.refusal),
        finish_reason=finish_reason(wire.finish_reason, refused=content.refusal is not None, calls=bool(calls)),
        raw_finish_reason=wire.finish_reason,
        thinking=None if content.thinking is None else Thinking(content=content.thinking),
        logprobs=logprobs_of(wire.logprobs),
    )


def completion_of(
    answer: WireAnswer,
    choices: tuple[Choice, ...],
    *,
    prompt: Prompt,
    model: str,
    usage: Usage,
    cost: float | None,
    began: float,
    raw: JsonValue = None,
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
        raw_response=raw,
    )


def wire_calls(message: WireTurn) -> list[WireCall | None]:
    """The tool calls of a message, also in the protocol's older form."""
    if message.function_call is not None and not message.tool_calls:
        return [WireCall(function=message.function_call)]
    return message.tool_calls or []


def content_of(message: WireTurn, backend: str = BACKEND) -> Content:
    """Separate a message's text from its thinking and its refusal. Raises MalformedAnswer for an unknown part."""
    texts, thoughts, refusals = [], [_thinking(message)], [message.refusal or ""]
    parts = [message.content] if isinstance(message.content, str) else message.content or []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif part.type in _TEXT_PARTS:
            texts.append(part.text or "")
        elif part.type in _THINKING_PARTS:
            thoughts.append(_thinking_text(part))
        elif part.type == "refusal":
            refusals.append(part.refusal or part.text or "")
        else:
            raise malformed(f"content has a part of the unknown type {part.type[:50]!r}", backend)
    return Content("".join(texts) or None, "".join(thoughts) or None, "".join(refusals) or None)


def _thinking(message: WireTurn) -> str:
    """The reasoning text, in either of the two fields that servers add to the protocol."""
    for value in (message.reasoning_content, message.reasoning):
        text = as_text(value)
        if isinstance(text, str) and text:
            return text
    return ""


def _thinking_text(part: WirePart) -> str:
    inner = part.thinking
    if isinstance(inner, list):
        return "".join(piece.text or _thinking_text(piece) for piece in inner)
    return inner or part.reasoning or part.text or ""


def finish_reason(reason: str | None, *, refused: bool, calls: bool) -> FinishReason | None:
    """The reason why an answer ended, from any provider's value; None if the server does not report one.

    Some servers report ``stop`` for an answer that is a refusal or has tool calls.
    """
    known = _BY_REASON.get(reason.lower(), FinishReason.UNKNOWN) if reason else None
    if refused and known in (None, FinishReason.STOP):
        return FinishReason.REFUSAL
    return FinishReason.TOOL_CALLS if calls and known is FinishReason.STOP else known


def logprobs_of(wire: WireLogprobs | None) -> tuple[TokenLogprob, ...] | None:
    """Convert the log probabilities of an answer or of a chunk."""
    if wire is None:
        return None
    tokens = tuple(
        TokenLogprob(
            token=item.token,
            logprob=_finite(item.logprob),
            top=tuple(_top(other) for other in item.top_logprobs or ()),
        )
        for item in [*(wire.content or ()), *(wire.refusal or ())]
    )
    return tokens or None


def _top(wire: WireTopLogprob) -> TopLogprob:
    return TopLogprob(token=wire.token, logprob=_finite(wire.logprob))


def _finite(value: float | None) -> float | None:
    if value == -math.inf:
        return _LEAST_LOGPROB
    return value if value is not None and math.isfinite(value) else None


def text_of(choices: Iterable[Choice]) -> str:
    """The text of all choices, from which a missing usage is estimated."""
    return "".join(choice.message.text() for choice in choices)


def usage_of(wire: Any, prompt: Prompt, text: str) -> Usage:
    """The usage that the server reported; without a usable report, an estimate, marked as one."""
    prompt_tokens, completion_tokens = _count(wire, "prompt_tokens"), _count(wire, "completion_tokens")
    if prompt_tokens is None and completion_tokens is None:
        estimated = sum(len(message.text()) for message in prompt.conversation()) // _CHARS_PER_TOKEN
        estimate = Usage.of(estimated, len(text) // _CHARS_PER_TOKEN)
        return estimate.model_copy(update={"source": UsageSource.ESTIMATED})
    counted = Usage.of(prompt_tokens or 0, completion_tokens or 0)
    total = _count(wire, "total_tokens")
    details = wire.get("prompt_tokens_details"), wire.get("completion_tokens_details")
    cached = [_count(details[0], "cached_tokens"), *(_count(wire, name) for name in _CACHED)]
    return counted.model_copy(
        update={
            "total_tokens": counted.total_tokens if total is None else total,
            "cached_tokens": next((count for count in cached if count is not None), None),
            "thinking_tokens": _count(details[1], "reasoning_tokens"),
        }
    )


_CACHED: Final = ("prompt_cache_hit_tokens", "cached_tokens")
"""Fields of servers that do not report cached tokens where OpenAI does."""


def _count(wire: Any, name: str) -> int | None:
    value = wire.get(name) if isinstance(wire, Mapping) else None
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if is_count and value is not None else None


def price(usage: Usage, prices: tuple[float, float], cached: float | None = None) -> float:
    """The cost of a usage in US dollars at prices per million tokens, of input and of output.

    Cached tokens cost the price ``cached``; without one, as much as other input.
    """
    cached_tokens = min(usage.cached_tokens or 0, usage.prompt_tokens)
    cached_price = prices[0] if cached is None else cached
    whole = (usage.prompt_tokens - cached_tokens) * prices[0] + cached_tokens * cached_price
    return (whole + usage.completion_tokens * prices[1]) / 1e6
