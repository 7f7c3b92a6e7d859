"""Protobuf codec of ``ForwardBackwardRequest``: written from the arrays' own memory, read as views."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final, Literal

from pydantic import ValidationError

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import DmelChunk, EncodedTextChunk, ModelInput, ModelInputChunk
from backends.tinkex.types.provenance import ProvenanceSpan
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.body import PROTOBUF, EncodedBody, Piece
from backends.tinkex.wire.buffers import POOL
from backends.tinkex.wire.chunks import datum_bytes
from backends.tinkex.wire.protobuf.field_reader import (
    ProtobufError,
    Value,
    as_double,
    as_int,
    as_text,
    as_view,
    entry,
    fields,
)
from backends.tinkex.wire.protobuf.field_writer import delimited, double, header, integer, text
from backends.tinkex.wire.protobuf.provenance_codec import read_span, write_spans
from backends.tinkex.wire.protobuf.tensor_codec import DType, numbers, packed, read_tensor, write_tensor_entry
from crucible.errors import CrucibleError, Unsupported

_FRAME_BYTES: Final = 512
"""Room for the names, shapes and lengths of one datum."""
_SPANS: Final = {3: "model_input_spans", 4: "loss_fn_input_spans"}


@dataclass(frozen=True, slots=True)
class PassRequest:
    """A forward or forward_backward request. Its datums are ``data``, or ``encoded``, the result of
    ``encoded_datums``."""

    model_id: str
    seq_id: int
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str] | None = None
    forward_only: bool = False
    encoded: Sequence[Piece] | None = None

    def datums(self) -> Sequence[Datum]:
        """Return the datums, decoded if necessary."""
        return self.data if self.encoded is None else read_pass_request(b"".join(self.encoded)).data


def write_pass_request(request: PassRequest) -> EncodedBody:
    """Encode a request. Arrays are not copied, and must not change before the request is sent.

    Raises:
        InvalidRequest: a number does not fit its type; the error names the datum.
        Unsupported: a chunk has no protobuf form.
    """
    datums: Iterable[Piece] = (
        chain.from_iterable(_datum_pieces(request.data, 0)) if request.encoded is None else request.encoded
    )
    head = text(1, request.model_id) + integer(2, request.seq_id)
    return EncodedBody([head, *datums, _tail(request)], PROTOBUF)


def encoded_datums(data: Sequence[Datum], first_index: int = 0) -> Sequence[Piece]:
    """Encode datums into memory that is not theirs. ``first_index``: that of the first datum, for errors.

    Raises as ``write_pass_request``.
    """
    size = sum(map(datum_bytes, data)) + _FRAME_BYTES * len(data)
    return [POOL.joined(_datum_pieces(data, first_index), size)]


def _datum_pieces(data: Sequence[Datum], first_index: int) -> Iterator[list[Piece]]:
    for index, datum in enumerate(data, start=first_index):
        pieces: list[Piece] = [b""]
        try:
            size = _write_datum(datum, pieces)
        except CrucibleError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise invalid(f"data[{index}]", str(error), "numbers must fit their type on the wire") from error
        pieces[0] = header(3, size)
        yield pieces


def _tail(request: PassRequest) -> bytes:
    tail = text(4, request.loss_fn)
    for key, value in (request.loss_fn_config or {}).items():
        name = text(1, key)
        if isinstance(value, str):
            tail += delimited(7, name + delimited(2, text(2, value)))
        else:
            # Older servers, without field 7, read numbers from field 5.
            tail += delimited(5, name + double(2, float(value)))
            tail += delimited(7, name + delimited(2, double(1, float(value))))
    return tail + (integer(6, 1) if request.forward_only else b"")


def _write_datum(datum: Datum, pieces: list[Piece]) -> int:
    size = 0
    for chunk in datum.model_input.chunks:
        size += _write_chunk(chunk, pieces)
    for name, tensor in datum.loss_fn_inputs.items():
        size += write_tensor_entry(2, name, tensor, pieces)
    for field, spans in ((3, datum.model_input_spans), (4, datum.loss_fn_input_spans)):
        if spans:
            pieces.append(write_spans(field, spans))
            size += len(pieces[-1])
    return size


def _write_chunk(chunk: ModelInputChunk, pieces: list[Piece]) -> int:
    if isinstance(chunk, EncodedTextChunk):
        data = packed(chunk.tokens, "int32")
        prefix = _text_prefix(len(data))
        pieces += (prefix, data)
        return len(prefix) + len(data)
    if isinstance(chunk, ImageChunk):
        image = text(2, chunk.format)
        if chunk.expected_tokens is not None:
            image += integer(3, chunk.expected_tokens)
        return _write_binary(2, image + header(1, len(chunk.data)), chunk.data, pieces)
    if isinstance(chunk, DmelChunk):
        return _write_binary(3, header(1, len(chunk.dmel)), chunk.dmel, pieces)
    raise Unsupported(f"a {chunk.type} chunk has no protobuf form; send the image's data", backend=BACKEND)


def _write_binary(kind: int, inner: bytes, data: bytes, pieces: list[Piece]) -> int:
    message = header(kind, len(inner) + len(data)) + inner
    prefix = header(1, len(message) + len(data)) + message
    pieces += (prefix, data)
    return len(prefix) + len(data)


@lru_cache(maxsize=4096)
def _text_prefix(size: int) -> bytes:
    tokens = header(1, size)
    chunk = header(1, len(tokens) + size) + tokens
    return header(1, len(chunk) + size) + chunk


def read_pass_request(body: bytes | memoryview) -> PassRequest:
    """Decode a request, with arrays as views into the body.

    Raises:
        ProtobufError: the message is malformed or has an unknown field; the text names the place, as
            ``data[3].loss_fn_inputs.weights``.
    """
    model_id, seq_id, loss_fn, forward_only = "", 0, "", False
    data: list[Datum] = []
    config_v1: dict[str, float | str] = {}
    config_v2: dict[str, float | str] = {}
    for number, _, value in fields(memoryview(body)):
        if number == 1:
            model_id = as_text(value, "model_id")
        elif number == 2:
            seq_id = as_int(value, "seq_id")
        elif number == 3:
            data.append(_read_datum(as_view(value, "data"), f"data[{len(data)}]"))
        elif number == 4:
            loss_fn = as_text(value, "loss_fn")
        elif number == 5:
            key, content = entry(value, "loss_fn_config")
            config_v1[key] = 0.0 if content is None else as_double(content, f"loss_fn_config.{key}")
        elif number == 6:
            forward_only = bool(as_int(value, "forward_only"))
        elif number == 7:
            key, content = entry(value, "loss_fn_config_v2")
            config_v2[key] = _read_setting(content, key)
        else:
            raise ProtobufError(f"field {number} of the request is unknown")
    return PassRequest(model_id, seq_id, data, loss_fn, config_v2 or config_v1 or None, forward_only)


def _read_setting(message: Value | None, key: str) -> float | str:
    setting: float | str = 0.0
    for number, _, value in fields(as_view(message if message is not None else memoryview(b""), key)):
        if number == 1:
            setting = as_double(value, f"loss_fn_config.{key}")
        elif number == 2:
            setting = as_text(value, f"loss_fn_config.{key}")
    return setting


def _read_datum(message: memoryview, where: str) -> Datum:
    chunks: list[ModelInputChunk] = []
    tensors: dict[str, TensorData] = {}
    spans: dict[int, list[ProvenanceSpan]] = {3: [], 4: []}
    for number, _, value in fields(message):
        if number == 1:
            chunks.append(_read_chunk(as_view(value, where), f"{where}.model_input.chunks[{len(chunks)}]"))
        elif number == 2:
            name, tensor = entry(value, f"{where}.loss_fn_inputs")
            field = f"{where}.loss_fn_inputs.{name}"
            tensors[name] = read_tensor(tensor if tensor is not None else memoryview(b""), field)
        elif number in spans:
            spans[number].append(read_span(value, f"{where}.{_SPANS[number]}[{len(spans[number])}]"))
        else:
            raise ProtobufError(f"{where}: field {number} is unknown")
    traced = bool(spans[3] or spans[4])
    return Datum.model_construct(
        model_input=ModelInput.model_construct(chunks=chunks),
        loss_fn_inputs=tensors,
        model_input_spans=tuple(spans[3]) if traced else None,
        loss_fn_input_spans=tuple(spans[4]) if traced else None,
    )


def _read_chunk(message: memoryview, where: str) -> ModelInputChunk:
    chunk: ModelInputChunk | None = None
    for number, _, value in fields(message):
        parts = {inner: part for inner, _, part in fields(as_view(value, where))} if number in (1, 2, 3) else {}
        if number == 1:
            tokens = as_view(parts.get(1, memoryview(b"")), where)
            chunk = EncodedTextChunk.model_construct(tokens=numbers(tokens, DType.INT32, where))
        elif number == 2:
            chunk = _read_image(parts, where)
        elif number == 3:
            chunk = DmelChunk(dmel=bytes(as_view(parts.get(1, memoryview(b"")), where)))
        else:
            raise ProtobufError(f"{where}: field {number} is unknown")
    if chunk is None:
        raise ProtobufError(f"{where}: no chunk of a known type")
    return chunk


def _read_image(parts: Mapping[int, Value], where: str) -> ImageChunk:
    image_format: Literal["png", "jpeg"]
    for number in parts:
        if number > 3:
            raise ProtobufError(f"{where}: field {number} of an image is not supported")
    name = as_text(parts.get(2, memoryview(b"")), f"{where}.format")
    if name == "png":
        image_format = "png"
    elif name == "jpeg":
        image_format = "jpeg"
    else:
        raise ProtobufError(f"{where}.format: {name!r} is not allowed; allowed are png and jpeg")
    expected = as_int(parts[3], f"{where}.expected_tokens") if 3 in parts else None
    try:
        return ImageChunk(
            data=bytes(as_view(parts.get(1, memoryview(b"")), where)), format=image_format, expected_tokens=expected
        )
    except ValidationError as error:
        raise ProtobufError(f"{where}: {error.errors()[0]['msg']}") from error
