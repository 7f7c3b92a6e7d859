"""Protobuf codec of ``SampleResponse``."""

import math
from typing import Any, Final

from backends.tinkex.types.sample_response import PromptAltTokens, SampledSequence, SampleResponse, TopkLogprobs
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.body import PROTOBUF, EncodedBody, Piece
from backends.tinkex.wire.protobuf.field_reader import ProtobufError, Value, as_int, as_view, fields
from backends.tinkex.wire.protobuf.field_writer import delimited, integer
from backends.tinkex.wire.protobuf.tensor_codec import DType, numbers, packed, read_tensor, write_tensor

_STOP_REASONS: Final = ("stop", "length")
_PADDING: Final = (0, -99999.0)
"""The value of an empty place in a top-k table."""


def read_sample_response(body: bytes | memoryview) -> SampleResponse:
    """Decode a response. Raises ProtobufError."""
    sequences: list[SampledSequence] = []
    logprobs: list[float | None] | None = None
    topk: TopkLogprobs | None = None
    targets: TensorData | None = None
    alternatives: PromptAltTokens | None = None
    cached = 0
    for number, _, value in fields(memoryview(body)):
        if number == 1:
            sequences.append(_read_sequence(as_view(value, "sequences"), len(sequences)))
        elif number == 2:
            logprobs = _read_prompt(as_view(value, "prompt_logprobs"))
        elif number == 3:
            topk = _read_topk(value, "topk_prompt_logprobs")
        elif number == 4:
            cached = as_int(value, "prompt_cache_hit_tokens")
        elif number == 5:
            targets = read_tensor(value, "target_prompt_logprobs")
        elif number == 6:
            alternatives = _read_alternatives(value, "prompt_alt_tokens")
    return SampleResponse.model_construct(
        sequences=sequences,
        prompt_logprobs=logprobs,
        topk_prompt_logprobs=topk,
        prompt_cache_hit_tokens=cached,
        target_prompt_logprobs=targets,
        prompt_alt_tokens=alternatives,
    )


def _read_alternatives(message: Value, where: str) -> PromptAltTokens:
    parts = {number: value for number, _, value in fields(as_view(message, where))}
    if not {1, 2} <= parts.keys():
        raise ProtobufError(f"{where}: tokens and logprobs belong together")
    return PromptAltTokens.model_construct(
        tokens=read_tensor(parts[1], f"{where}.tokens"), logprobs=read_tensor(parts[2], f"{where}.logprobs")
    )


def _read_sequence(message: memoryview, index: int) -> SampledSequence:
    where = f"sequences[{index}]"
    reason = 0
    tokens: list[int] = []
    logprobs: list[float] | None = None
    topk: TopkLogprobs | None = None
    for number, _, value in fields(message):
        if number == 1:
            reason = as_int(value, f"{where}.stop_reason")
        elif number == 2:
            tokens = numbers(as_view(value, where), DType.INT32, f"{where}.tokens").tolist()
        elif number == 3:
            logprobs = numbers(as_view(value, where), DType.FLOAT32, f"{where}.logprobs").tolist()
        elif number == 4:
            topk = _read_topk(value, f"{where}.topk_sampled_logprobs")
    if not 0 <= reason < len(_STOP_REASONS):
        raise ProtobufError(f"{where}.stop_reason: {reason} is unknown")
    if logprobs is not None and len(logprobs) not in (0, len(tokens)):
        raise ProtobufError(f"{where}: {len(logprobs)} logprobs for {len(tokens)} tokens")
    return SampledSequence.model_construct(
        stop_reason=_STOP_REASONS[reason], tokens=tokens, logprobs=logprobs, topk_logprobs=topk
    )


def _read_prompt(view: memoryview) -> list[float | None]:
    values = numbers(view, DType.FLOAT32, "prompt_logprobs").tolist()
    return [None if math.isnan(value) else value for value in values]


def _read_topk(message: Value, where: str) -> TopkLogprobs | None:
    ids = values = memoryview(b"")
    k = length = 0
    for number, _, value in fields(as_view(message, where)):
        if number == 1:
            ids = as_view(value, where)
        elif number == 2:
            values = as_view(value, where)
        elif number == 3:
            k = as_int(value, f"{where}.k")
        elif number == 4:
            length = as_int(value, f"{where}.length")
    if k <= 0 or length <= 0:
        return None
    tokens = numbers(ids, DType.INT32, f"{where}.token_ids").tolist()
    logprobs = numbers(values, DType.FLOAT32, f"{where}.logprobs").tolist()
    if len(tokens) != k * length or len(logprobs) != k * length:
        raise ProtobufError(f"{where}: {len(tokens)} tokens and {len(logprobs)} logprobs are not {length} x {k}")
    pairs = list(zip(tokens, logprobs, strict=True))
    return [_row(pairs[begin : begin + k]) for begin in range(0, k * length, k)]


def _row(pairs: list[tuple[int, float]]) -> list[tuple[int, float]] | None:
    end = len(pairs)
    while end and pairs[end - 1] == _PADDING:
        end -= 1
    return pairs[:end] or None


def write_sample_response(response: SampleResponse) -> EncodedBody:
    """Encode a response."""
    pieces: list[Piece] = [delimited(1, _sequence(sequence)) for sequence in response.sequences]
    if response.prompt_logprobs is not None:
        floats = [math.nan if value is None else value for value in response.prompt_logprobs]
        pieces.append(delimited(2, bytes(packed(floats, "float32"))))
    if response.topk_prompt_logprobs is not None:
        pieces.append(delimited(3, _topk(response.topk_prompt_logprobs)))
    if response.prompt_cache_hit_tokens:
        pieces.append(integer(4, response.prompt_cache_hit_tokens))
    if response.target_prompt_logprobs is not None:
        pieces.append(write_tensor(5, response.target_prompt_logprobs))
    if response.prompt_alt_tokens is not None:
        drawn = response.prompt_alt_tokens
        pieces.append(delimited(6, write_tensor(1, drawn.tokens) + write_tensor(2, drawn.logprobs)))
    return EncodedBody(pieces, PROTOBUF)


def _sequence(sequence: SampledSequence) -> bytes:
    reason = _STOP_REASONS.index(sequence.stop_reason)
    message = integer(1, reason) + delimited(2, bytes(packed(sequence.tokens, "int32")))
    if sequence.logprobs is not None:
        message += delimited(3, bytes(packed(sequence.logprobs, "float32")))
    if sequence.topk_logprobs is not None:
        message += delimited(4, _topk(sequence.topk_logprobs))
    return message


def _topk(rows: TopkLogprobs) -> bytes:
    k = max((len(row) for row in rows if row), default=0)
    table = [pair for row in rows for pair in [*(row or []), *([_PADDING] * (k - len(row or [])))]]
    ids: Any = [token for token, _ in table]
    logprobs: Any = [logprob for _, logprob in table]
    return (
        delimited(1, bytes(packed(ids, "int32")))
        + delimited(2, bytes(packed(logprobs, "float32")))
        + integer(3, k)
        + integer(4, len(rows))
    )
