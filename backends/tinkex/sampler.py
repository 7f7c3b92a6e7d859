"""From a prompt to the service's samples, and from those to a completion."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backends.tinkex.errors import BACKEND
from backends.tinkex.models import ModelSource
from backends.tinkex.render import model_input
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.sample_response import SampledSequence, SampleResponse
from backends.tinkex.types.sampling_params import SamplingParams
from crucible.chat import chat_of
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
from crucible.errors import InvalidRequest, RequestTimeout, Unsupported
from crucible.options import Options
from crucible.output_parser import THINK_END, THINK_START, parse_output
from crucible.prompt import Message, Prompt, Role
from crucible.tokenizer import Tokenizer

if TYPE_CHECKING:
    from backends.tinkex.client.sampling import SamplingClient

TOP_LOGPROBS: Final = "options.top_logprobs"
_TOP_FIELD: Final = "topk_sample_logprobs"
_TAIL: Final = 16


@dataclass(frozen=True, slots=True)
class _Cut:
    """A sequence up to where it ends for the caller."""

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason


async def sample(client: "SamplingClient", source: ModelSource, tokenizer: Tokenizer, prompt: Prompt) -> Completion:
    """Ask for ``options.n`` answers at once.

    Raises:
        RequestTimeout: ``options.timeout_ms`` passed.
        Unsupported: the service tells no likely tokens (``options.top_logprobs``), or takes no such image.
        BackendError: the service failed.
    """
    began = time.monotonic()
    chat, options = chat_of(prompt), prompt.options
    given = model_input(chat, tokenizer)
    answer, request_id = await _ask(client, given, options, tokenizer)
    reader = _Reader(tokenizer, options, bool(chat.tools), _opens_thinking(given, tokenizer), len(prompt.messages))
    choices = tuple(reader.choice(index, one) for index, one in enumerate(answer.sequences))
    return Completion(
        choices=choices,
        model=source.name,
        usage=_usage(given, answer, choices),
        latency_ms=elapsed_ms(began),
        request_id=prompt.request_id or request_id,
        trace_id=prompt.trace_id,
        metadata={"base_model": source.base_model, "model_path": source.path, "tokenizer": tokenizer.tokenizer_id},
    )


async def _ask(
    client: "SamplingClient", given: ModelInput, options: Options, tokenizer: Tokenizer
) -> tuple[SampleResponse, str | None]:
    limit, top = options.timeout_ms, options.top_logprobs or 0
    future = client.sample(given, options.n, sampling_params(options, tokenizer), topk_sample_logprobs=top)
    try:
        async with asyncio.timeout(None if limit is None else limit / 1000):
            answer = await future
    except TimeoutError as error:
        raise RequestTimeout(f"no answer within timeout_ms={limit}", backend=BACKEND) from error
    except InvalidRequest as error:
        if top and _TOP_FIELD in str(error):
            raise _no_top() from error
        raise
    if top and any(one.tokens and one.topk_logprobs is None for one in answer.sequences):
        raise _no_top()
    return answer, future.request_id


def _no_top() -> Unsupported:
    return Unsupported(
        f"{TOP_LOGPROBS}: the service does not tell the most likely tokens of what it samples",
        backend=BACKEND,
        details={"field": TOP_LOGPROBS},
    )


def _opens_thinking(given: ModelInput, tokenizer: Tokenizer) -> bool:
    """Whether the template has begun the thinking, so that the model writes only its end."""
    last = given.chunks[-1]
    if not isinstance(last, EncodedTextChunk):
        return False
    return tokenizer.decode(list(last.tokens)[-_TAIL:]).rstrip().endswith(THINK_START)


def sampling_params(options: Options, tokenizer: Tokenizer) -> SamplingParams:
    """The options that travel as such. Those of ``n`` and log-probabilities are fields of the request itself."""
    # The service takes strings or ids, not both. The ids must be there, for they end the turn; a string that is one
    # token goes with them, and a longer one is found in the answer.
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
class _Reader:
    """Reads sequences as answers. ``turn`` numbers the tool calls that come without an id."""

    tokenizer: Tokenizer
    options: Options
    calls: bool
    opened: bool
    turn: int

    def choice(self, index: int, sequence: SampledSequence) -> Choice:
        cut = _cut(sequence, self.tokenizer, self.options.stop)
        thinks = self.options.extended_thinking
        spoken = parse_output(cut.text, thinks=thinks, opened=self.opened, calls=self.calls, turn=self.turn)
        called = spoken.tool_calls and cut.finish is FinishReason.STOP
        return Choice(
            index=index,
            message=Message(
                role=Role.ASSISTANT,
                content=spoken.content or (None if spoken.tool_calls else ""),
                tool_calls=spoken.tool_calls,
            ),
            finish_reason=FinishReason.TOOL_CALLS if called else cut.finish,
            raw_finish_reason=sequence.stop_reason or None,
            thinking=None if spoken.thinking is None else self._thinking(spoken.thinking, cut),
            tokens=cut.tokens,
            logprobs=_logprobs(cut.tokens, sequence, self.tokenizer, self.options)
            if self.options.logprobs
            else None,
        )

    def _thinking(self, thought: str, cut: _Cut) -> Thinking:
        ended = THINK_END in cut.text
        tokens = _until_stop(cut.tokens, self.tokenizer, (THINK_END,)) if ended else cut.tokens
        return Thinking(content=thought, tokens=len(tokens))


def _cut(sequence: SampledSequence, tokenizer: Tokenizer, stops: Sequence[str]) -> _Cut:
    tokens, finish = tuple(sequence.tokens), FinishReason.LENGTH
    if sequence.stop_reason == "stop":
        finish = FinishReason.STOP
    for place, token in enumerate(tokens):
        if token in tokenizer.stop_tokens:
            tokens, finish = tokens[: place + 1], FinishReason.STOP
            break
    text = tokenizer.decode(token for token in tokens if token not in tokenizer.stop_tokens)
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    if not places:
        return _Cut(text, tokens, finish)
    return _Cut(text[: min(places)], _until_stop(tokens, tokenizer, stops), FinishReason.STOP)


def _until_stop(tokens: tuple[int, ...], tokenizer: Tokenizer, stops: Sequence[str]) -> tuple[int, ...]:
    """The shortest beginning whose text holds a stop sequence."""
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
                TopLogprob(token=tokenizer.decode([other]), token_id=other, logprob=chance)
                for other, chance in (rows[place] if place < len(rows) else None) or ()
            ),
        )
        for place, (token, logprob) in enumerate(zip(tokens, sequence.logprobs, strict=False))
    )


def _usage(given: ModelInput, answer: SampleResponse, choices: Sequence[Choice]) -> Usage:
    """Only the service knows how many tokens an image takes: with images, the prompt's count is an estimate."""
    lengths = [chunk.length for chunk in given.chunks]
    prompt_tokens = sum(length or 0 for length in lengths)
    generated = sum(len(sequence.tokens) for sequence in answer.sequences)
    thought = [choice.thinking.tokens or 0 for choice in choices if choice.thinking is not None]
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=generated,
        total_tokens=prompt_tokens + generated,
        cached_tokens=answer.prompt_cache_hit_tokens or None,
        thinking_tokens=sum(thought) if thought else None,
        source=UsageSource.ESTIMATED if None in lengths else UsageSource.PROVIDER,
    )
