"""Stream events of answers generated in this process."""

from collections.abc import AsyncIterator, Callable

from backends.local.generation import Piece
from crucible.completion import FinishReason, Usage
from crucible.prompt import Prompt
from crucible.stream import DeltaEvent, DoneEvent, EndEvent, StartEvent, StreamEvent, UsageEvent
from crucible.values.durations import elapsed_ms


async def answer(
    prompt: Prompt, *, model: str, prompt_tokens: int, pieces: Callable[[int], AsyncIterator[Piece]], began: float
) -> AsyncIterator[StreamEvent]:
    """Yield the events of ``options.n`` answers, one answer after the other.

    ``pieces`` generates the answer of an index. ``began`` is the monotonic time at which the request arrived.
    """
    seq, used, first_ms = 0, 0, None
    yield StartEvent(seq=0, model=model, request_id=prompt.request_id, trace_id=prompt.trace_id)
    for index in range(prompt.options.n):
        finish = FinishReason.STOP
        async for piece in pieces(index):
            first_ms = first_ms or elapsed_ms(began)
            seq, used, finish = seq + 1, used + len(piece.tokens), piece.finish or finish
            logprobs = piece.logprobs if prompt.options.logprobs else None
            yield DeltaEvent(seq=seq, index=index, text=piece.text, tokens=piece.tokens, logprobs=logprobs)
        seq += 1
        yield EndEvent(seq=seq, index=index, finish_reason=finish)
    yield UsageEvent(seq=seq + 1, usage=Usage.of(prompt_tokens, used))
    yield DoneEvent(seq=seq + 2, latency_ms=elapsed_ms(began), time_to_first_token_ms=first_ms)
