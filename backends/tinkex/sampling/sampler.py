"""Completion of a prompt: render, sample, and parse the sequences into choices."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from backends.tinkex.errors import BACKEND
from backends.tinkex.sampling.model_source import ModelSource
from backends.tinkex.sampling.rendered_prompt import model_input
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.sample_response import SampledSequence, SampleResponse
from backends.tinkex.types.sampling_params import SamplingParams
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
from crucible.errors import InvalidRequest, RequestTimeout, Unsupported
from crucible.options import Options
from crucible.prompt import Message, Prompt, Role
from crucible.rendering.chat import chat_of
from crucible.rendering.output_parser import THINK_END, THINK_START, parse_output
from crucible.rendering.tokenizer import Tokenizer
from crucible.values.durations import elapsed_ms

if TYPE_CHECKING:
    from backends.tinkex.client.sampling.client import SamplingClient

TOP_LOGPROBS: Final = "options.top_logprobs"
_TOPK_FIELD: Final = "topk_sample_logprobs"
_MAX_MARKER_TOKENS: Final = 16
"""The number of trailing prompt tokens in which the start of the thinking is searched."""


@dataclass(frozen=True, slots=True)
class _Output:
    """The part of a sequence before its stop sequence."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


async def sample(client: "SamplingClient", source: ModelSource, tokenizer: Tokenizer, prompt: Prompt) -> Completion:
    """Complete a prompt with ``options.n`` choices, sampled in one request.

    Raises:
        RequestTimeout: ``options.timeout_ms`` has passed.
        Unsupported: the service returns no most likely tokens (``options.top_logprobs``), or rejects an image.
        BackendError: the service failed.
    """
    started_at = time.monotonic()
    chat, options = chat_of(prompt), prompt.options
    model_prompt = model_input(chat, tokenizer)
    response, request_id = await _request(client, model_prompt, options, tokenizer)
    parser = _SequenceParser(
        tokenizer, options, bool(chat.tools), _opens_thinking(model_prompt, tokenizer), len(prompt.messages)
    )
    choices = tuple(parser.choice(index, sequence) for index, sequence in enumerate(response.sequences))
    return Completion(
        choices=choices,
        model=source.name,
        usage=_usage(model_prompt, response, choices),
        latency_ms=elapsed_ms(started_at),
        request_id=prompt.request_id or request_id,
        trace_id=prompt.trace_id,
        metadata={
            "base_model": source.base_model,
            "model_path": source.path,
            "tokenizer": tokenizer.tokenizer_id,
            **_sampled(response, choices),
        },
    )


def _sampled(response: SampleResponse, choices: Sequence[Choice]) -> dict[str, JsonValue]:
    """Return what the choices do not say of the sequences: their ids, and the whole of those that were cut.

    A sequence that goes on after its stop string was paid for, and is what training must see.
    """
    ids = [sequence.sequence_id for sequence in response.sequences]
    whole: dict[str, JsonValue] = {
        str(choice.index): {"tokens": list(sequence.tokens), "logprobs": list(sequence.logprobs or ())}
        for choice, sequence in zip(choices, response.sequences, strict=True)
        if len(choice.tokens or ()) < len(sequence.tokens)
    }
    return {
        "seq_id": response.seq_id,
        **({} if None in ids else {"sequence_ids": list[JsonValue](ids)}),
        **({"cut_sequences": whole} if whole else {}),
    }


async def _request(
    client: "SamplingClient", model_prompt: ModelInput, options: Options, tokenizer: Tokenizer
) -> tuple[SampleResponse, str | None]:
    limit, top = options.timeout_ms, options.top_logprobs or 0
    future = client.sample(model_prompt, options.n, sampling_params(options, tokenizer), topk_sample_logprobs=top)
    try:
        async with asyncio.timeout(None if limit is None else limit / 1000):
            response = await future
    except TimeoutError as error:
        raise RequestTimeout(f"no response within timeout_ms={limit}", backend=BACKEND) from error
    except InvalidRequest as error:
        if top and _TOPK_FIELD in str(error):
            raise _no_top_logprobs() from error
        raise
    if top and any(sequence.tokens and sequence.topk_logprobs is None for sequence in response.sequences):
        raise _no_top_logprobs()
    return response, future.request_id


def _no_top_logprobs() -> Unsupported:
    return Unsupported(
        f"{TOP_LOGPROBS}: the service does not return the most likely tokens of its samples",
        backend=BACKEND,
        details={"field": TOP_LOGPROBS},
    )


def _opens_thinking(model_prompt: ModelInput, tokenizer: Tokenizer) -> bool:
    """Return whether the template has opened the thinking, so that the output contains only its end."""
    last = model_prompt.chunks[-1]
    if not isinstance(last, EncodedTextChunk):
        return False
    return tokenizer.decode(list(last.tokens)[-_MAX_MARKER_TOKENS:]).rstrip().endswith(THINK_START)


def sampling_params(options: Options, tokenizer: Tokenizer) -> SamplingParams:
    """Return the sampling parameters of a request, of which ``n`` and log-probabilities are separate fields."""
    # The service accepts either strings or ids. The tokenizer's ids are required, as they end the turn. A stop
    # string of one token is added to them; a longer one is searched in the output.
    stop = [*tokenizer.stop_tokens]
    for text in options.stop:
        encoded = tokenizer.encode(text)
        if len(encoded) == 1:
            stop.append(encoded[0])
    return SamplingParams(
        max_tokens=options.max_tokens,
        seed=options.seed,
        stop=stop,
        temperature=1.0 if options.temperature is None else options.temperature,
        top_k=-1 if options.top_k is None else options.top_k,
        top_p=1.0 if options.top_p is None else options.top_p,
    )


@dataclass(frozen=True, slots=True)
class _SequenceParser:
    """Parses sequences into choices. ``turn`` numbers tool calls that have no id."""

    tokenizer: Tokenizer
    options: Options
    calls: bool
    opened: bool
    turn: int

    def choice(self, index: int, sequence: SampledSequence) -> Choice:
        output = _truncate(sequence, self.tokenizer, self.options.stop)
        thinks = self.options.extended_thinking
        parsed = parse_output(output.text, thinks=thinks, opened=self.opened, calls=self.calls, turn=self.turn)
        called = parsed.tool_calls and output.finish_reason is FinishReason.STOP
        return Choice(
            index=index,
            message=Message(
                role=Role.ASSISTANT,
                content=parsed.content or (None if parsed.tool_calls else ""),
                tool_calls=parsed.tool_calls,
            ),
            finish_reason=FinishReason.TOOL_CALLS if called else output.finish_reason,
            raw_finish_reason=sequence.stop_reason or None,
            thinking=None if parsed.thinking is None else self._thinking(parsed.thinking, output),
            tokens=output.tokens,
            logprobs=_logprobs(output.tokens, sequence, self.tokenizer, self.options)
            if self.options.logprobs
            else None,
        )

    def _thinking(self, content: str, output: _Output) -> Thinking:
        ended = THINK_END in output.text
        tokens = _until_stop(output.tokens, self.tokenizer, (THINK_END,)) if ended else output.tokens
        return Thinking(content=content, tokens=len(tokens))


def _truncate(sequence: SampledSequence, tokenizer: Tokenizer, stops: Sequence[str]) -> _Output:
    """Cut a sequence after its first stop token and before its first stop string."""
    tokens, finish_reason = tuple(sequence.tokens), FinishReason.LENGTH
    if sequence.stop_reason == "stop":
        finish_reason = FinishReason.STOP
    for position, token in enumerate(tokens):
        if token in tokenizer.stop_tokens:
            tokens, finish_reason = tokens[: position + 1], FinishReason.STOP
            break
    text = tokenizer.decode(token for token in tokens if token not in tokenizer.stop_tokens)
    positions = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    if not positions:
        return _Output(text, tokens, finish_reason)
    return _Output(text[: min(positions)], _until_stop(tokens, tokenizer, stops), FinishReason.STOP)


def _until_stop(tokens: tuple[int, ...], tokenizer: Tokenizer, stops: Sequence[str]) -> tuple[int, ...]:
    """Return the shortest prefix whose text contains a stop string."""
    low, high = 1, len(tokens)
    while low < high:
        middle = (low + high) // 2
        text = tokenizer.decode(tokens[:middle])
        low, high = (low, middle) if any(stop in text for stop in stops) else (middle + 1, high)
    return tokens[:low]


def _logprobs(
    tokens: Sequence[int], sequence: SampledSequence, tokenizer: Tokenizer, options: Options
) -> tuple[TokenLogprob, ...] | None:
    if sequence.logprobs is None:
        return None
    rows = (sequence.topk_logprobs or []) if options.top_logprobs else []
    return tuple(
        TokenLogprob(
            token=tokenizer.decode([token]),
            token_id=token,
            logprob=logprob,
            top=tuple(
                TopLogprob(token=tokenizer.decode([top_token]), token_id=top_token, logprob=top_logprob)
                for top_token, top_logprob in (rows[position] if position < len(rows) else None) or ()
            ),
        )
        for position, (token, logprob) in enumerate(zip(tokens, sequence.logprobs, strict=False))
    )


def _usage(model_prompt: ModelInput, response: SampleResponse, choices: Sequence[Choice]) -> Usage:
    """Return the token counts. Only the service knows the tokens of an image, so with images they are estimates."""
    lengths = [chunk.length for chunk in model_prompt.chunks]
    prompt_tokens = sum(length or 0 for length in lengths)
    generated = sum(len(sequence.tokens) for sequence in response.sequences)
    thinking = [choice.thinking.tokens or 0 for choice in choices if choice.thinking is not None]
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=generated,
        total_tokens=prompt_tokens + generated,
        cached_tokens=response.prompt_cache_hit_tokens or None,
        thinking_tokens=sum(thinking) if thinking else None,
        source=UsageSource.ESTIMATED if None in lengths else UsageSource.PROVIDER,
    )
