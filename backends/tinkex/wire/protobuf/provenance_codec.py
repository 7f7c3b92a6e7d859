"""Protobuf codec of ``ProvenanceSpan``."""

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from backends.tinkex.types.provenance import PromptProvenanceSpan, ProvenanceSpan, SampledProvenanceSpan
from backends.tinkex.wire.protobuf.field_reader import ProtobufError, Value, as_int, as_text, as_view, fields
from backends.tinkex.wire.protobuf.field_writer import delimited, integer, text

_KINDS: Final[dict[int, type[PromptProvenanceSpan] | type[SampledProvenanceSpan]]] = {
    1: PromptProvenanceSpan,
    2: SampledProvenanceSpan,
}


def write_spans(number: int, spans: Sequence[ProvenanceSpan]) -> bytes:
    """Encode spans as the repeated field ``number``."""
    return b"".join(delimited(number, _span(span)) for span in spans)


def _span(span: ProvenanceSpan) -> bytes:
    content = text(1, span.sequence_id)
    if span.offset:
        content += integer(2, span.offset)
    if span.length:
        content += integer(3, span.length)
    return delimited(1 if isinstance(span, PromptProvenanceSpan) else 2, content)


def read_span(message: Value, where: str) -> ProvenanceSpan:
    """Decode a span. Raises ProtobufError naming ``where``."""
    span: ProvenanceSpan | None = None
    for number, _, value in fields(as_view(message, where)):
        kind = _KINDS.get(number)
        if kind is None:
            continue
        parts = {inner: part for inner, _, part in fields(as_view(value, where))}
        try:
            span = kind(
                sequence_id=as_text(parts.get(1, memoryview(b"")), f"{where}.sequence_id"),
                offset=as_int(parts.get(2, 0), f"{where}.offset"),
                length=as_int(parts.get(3, 0), f"{where}.length"),
            )
        except ValidationError as error:
            [first, *_] = error.errors()
            raise ProtobufError(f"{where}.{first['loc'][0]}: {first['msg']}") from error
    if span is None:
        raise ProtobufError(f"{where}: no span of a known type")
    return span
