"""``ForwardBackwardRequest`` in protobuf: written from the arrays' own memory, read as views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import ValidationError

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import DmelChunk, EncodedTextChunk, ModelInput, ModelInputChunk
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.body import PROTOBUF, EncodedBody, Piece
from backends.tinkex.wire.protobuf_read import (
    ProtobufError,
    Value,
    as_double,
    as_int,
    as_text,
    as_view,
    entry,
    fields,
)
from backends.tinkex.wire.protobuf_write import delimited, double, header, integer, text
from backends.tinkex.wire.tensor_codec import DType, numbers, packed, read_tensor, write_tensor_entry
from crucible.errors import CrucibleError, Unsupported


@dataclass(frozen=True, slots=True)
class PassRequest:
    """One forward or forward_backward request."""

    model_id: str
    seq_id: int
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str] | None = None
    forward_only: bool = False


def write_pass_request(request: PassRequest) -> EncodedBody:
    """The request's bytes as pieces; arrays are not copied, and must not be changed before it was sent.

    Raises:
        InvalidRequest: a number does not fit its type; the error names the datum.
        Unsupported: a chunk has no protobuf form.
    """
    pieces: list[Piece] = [text(1, request.model_id) + integer(2, request.seq_id)]
    for index, datum in enumerate(request.data):
        at = len(pieces)
        pieces.append(b"")
        try:
            size = _write_datum(datum, pieces)
        except CrucibleError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise invalid(f"data[{index}]", str(error), "numbers must fit their type on the wire") from error
        pieces[at] = header(3, size)
    pieces.append(_tail(request))
    return EncodedBody(pieces, PROTOBUF)


def _tail(request: PassRequest) -> bytes:
    tail = text(4, request.loss_fn)
    for key, value in (request.loss_fn_config or {}).items():
        name = text(1, key)
        if isinstance(value, str):
            tail += delimited(7, name + delimited(2, text(2, value)))
        else:
            # Servers from before field 7 read numbers from field 5.
            tail += delimited(5, name + double(2, float(value)))
            tail += delimited(7, name + delimited(2, double(1, float(value))))
    return tail + (integer(6, 1) if request.forward_only else b"")


def _write_datum(datum: Datum, pieces: list[Piece]) -> int:
    size = 0
    for chunk in datum.model_input.chunks:
        size += _write_chunk(chunk, pieces)
    for name, tensor in datum.loss_fn_inputs.items():
        size += write_tensor_entry(2, name, tensor, pieces)
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
    """The request in a body; arrays are views into it.

    Raises:
        ProtobufError: it is no such message; the text names the place, as ``data[3].loss_fn_inputs.weights``.
    """
    model_id, seq_id, loss_fn, forward_only = "", 0, "", False
    data: list[Datum] = []
    old: dict[str, float | str] = {}
    new: dict[str, float | str] = {}
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
            key, number_of = entry(value, "loss_fn_config")
            old[key] = 0.0 if number_of is None else as_double(number_of, f"loss_fn_config.{key}")
        elif number == 6:
            forward_only = bool(as_int(value, "forward_only"))
        elif number == 7:
            key, said = entry(value, "loss_fn_config_v2")
            new[key] = _read_setting(said, key)
    return PassRequest(model_id, seq_id, data, loss_fn, new or old or None, forward_only)


def _read_setting(said: Value | None, key: str) -> float | str:
    found: float | str = 0.0
    for number, _, value in fields(as_view(said if said is not None else memoryview(b""), key)):
        if number == 1:
            found = as_double(value, f"loss_fn_config.{key}")
        elif number == 2:
            found = as_text(value, f"loss_fn_config.{key}")
    return found


def _read_datum(message: memoryview, where: str) -> Datum:
    chunks: list[ModelInputChunk] = []
    tensors: dict[str, TensorData] = {}
    for number, _, value in fields(message):
        if number == 1:
            chunks.append(_read_chunk(as_view(value, where), f"{where}.model_input.chunks[{len(chunks)}]"))
        elif number == 2:
            name, tensor = entry(value, f"{where}.loss_fn_inputs")
            place = f"{where}.loss_fn_inputs.{name}"
            tensors[name] = read_tensor(tensor if tensor is not None else memoryview(b""), place)
    return Datum.model_construct(model_input=ModelInput.model_construct(chunks=chunks), loss_fn_inputs=tensors)


def _read_chunk(message: memoryview, where: str) -> ModelInputChunk:
    found: ModelInputChunk | None = None
    for number, _, value in fields(message):
        parts = {inner: part for inner, _, part in fields(as_view(value, where))} if number in (1, 2, 3) else {}
        if number == 1:
            tokens = as_view(parts.get(1, memoryview(b"")), where)
            found = EncodedTextChunk.model_construct(tokens=numbers(tokens, DType.INT32, where))
        elif number == 2:
            found = _read_image(parts, where)
        elif number == 3:
            found = DmelChunk(dmel=bytes(as_view(parts.get(1, memoryview(b"")), where)))
    if found is None:
        raise ProtobufError(f"{where}: it holds no chunk that is known")
    return found


def _read_image(parts: Mapping[int, Value], where: str) -> ImageChunk:
    kind: Literal["png", "jpeg"]
    named = as_text(parts.get(2, memoryview(b"")), f"{where}.format")
    if named == "png":
        kind = "png"
    elif named == "jpeg":
        kind = "jpeg"
    else:
        raise ProtobufError(f"{where}.format: {named!r} is not allowed; allowed are png and jpeg")
    expected = as_int(parts[3], f"{where}.expected_tokens") if 3 in parts else None
    try:
        return ImageChunk(
            data=bytes(as_view(parts.get(1, memoryview(b"")), where)), format=kind, expected_tokens=expected
        )
    except ValidationError as error:
        raise ProtobufError(f"{where}: {error.errors()[0]['msg']}") from error
