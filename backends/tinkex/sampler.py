"""From a prompt to the service's samples, and from those to a completion."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.tinkex.errors import BACKEND
from backends.tinkex.models import ModelSource
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.types.sample_response import SampledSequence, SampleResponse
from backends.tinkex.types.sampling_params import SamplingParams
from crucible.completion import Choice, Completion, FinishReason, TokenLogprob, Usage
from crucible.errors import RequestTimeout
from crucible.options import Options
from crucible.prompt import Message, Prompt, Role
from crucible.tokenizer import Tokenizer

if TYPE_CHECKING:
    from backends.tinkex.client.sampling import SamplingClient


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
        BackendError: the service failed.
    """
    began = time.monotonic()
    tokens = tokenizer.render_prompt(
        [{"role": message.role.value, "content": message.text()} for message in prompt.conversation()]
    )
    limit = prompt.options.timeout_ms
    future = client.sample(ModelInput.from_ints(tokens), prompt.options.n, _params(prompt.options, tokenizer))
    try:
        async with asyncio.timeout(None if limit is None else limit / 1000):
            answer = await future
    except TimeoutError as error:
        raise RequestTimeout(f"no answer within timeout_ms={limit}", backend=BACKEND) from error
    return Completion(
        choices=tuple(_choice(index, one, tokenizer, prompt.options) for index, one in enumerate(answer.sequences)),
        model=source.name,
        usage=_usage(len(tokens), answer),
        latency_ms=(time.monotonic() - began) * 1000,
        request_id=prompt.request_id or future.request_id,
        trace_id=prompt.trace_id,
        metadata={"base_model": source.base_model, "model_path": source.path, "tokenizer": tokenizer.tokenizer_id},
    )


def _params(options: Options, tokenizer: Tokenizer) -> SamplingParams:
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


def _choice(index: int, sequence: SampledSequence, tokenizer: Tokenizer, options: Options) -> Choice:
    cut = _cut(sequence, tokenizer, options.stop)
    return Choice(
        index=index,
        message=Message(role=Role.ASSISTANT, content=cut.text),
        finish_reason=cut.finish,
        raw_finish_reason=sequence.stop_reason or None,
        tokens=cut.tokens,
        logprobs=_logprobs(cut.tokens, sequence.logprobs, tokenizer) if options.logprobs else None,
    )


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
    tokens: Sequence[int], logprobs: Sequence[float] | None, tokenizer: Tokenizer
) -> tuple[TokenLogprob, ...] | None:
    if logprobs is None:
        return None
    return tuple(
        TokenLogprob(token=tokenizer.decode([token]), token_id=token, logprob=logprob)
        for token, logprob in zip(tokens, logprobs, strict=False)
    )


def _usage(prompt_tokens: int, answer: SampleResponse) -> Usage:
    generated = sum(len(sequence.tokens) for sequence in answer.sequences)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=generated,
        total_tokens=prompt_tokens + generated,
        cached_tokens=answer.prompt_cache_hit_tokens or None,
    )
