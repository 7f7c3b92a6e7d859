"""Bodies in, answers out: what every route of the API does in the same way."""

import asyncio
import json
from typing import Any, Final, TypeVar

import zstandard
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from backends.tinkex_dev.errors import InvalidField, OperationFailed, Refused
from backends.tinkex_dev.requests import Body

JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
_MAX_BODY: Final = 256 * 1024 * 1024
_BIG: Final = 256 * 1024
B = TypeVar("B", bound=Body)


async def read_body(request: Request) -> bytes:
    """The body, unpacked if it was sent packed.

    Raises:
        Refused: 413 if it is too big, 415 for a packing that is not known, 400 if it cannot be unpacked.
    """
    data = await request.body()
    if len(data) > _MAX_BODY:
        raise Refused(413, f"the body has {len(data)} bytes; {_MAX_BODY} are allowed")
    packing = request.headers.get("content-encoding", "identity").strip().lower()
    if packing == "identity":
        return data
    if packing != "zstd":
        raise Refused(415, f"content-encoding {packing!r} is not supported; zstd is")
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_BODY)
    except zstandard.ZstdError as error:
        raise Refused(400, f"the body is not valid zstd: {error}") from error


async def read(request: Request, kind: type[B]) -> B:
    """The JSON body as a record.

    Raises:
        InvalidField: it is not JSON, or a field is missing or wrong.
    """
    data = await read_body(request)
    if len(data) > _BIG:
        return await asyncio.to_thread(parse, data, kind)
    return parse(data, kind)


def parse(data: bytes, kind: type[B]) -> B:
    """The same, from bytes."""
    try:
        return kind.model_validate(from_json(data))
    except ValidationError as error:
        raise InvalidField(422, _places(error)) from None
    except ValueError as error:
        raise InvalidField(
            422, [{"type": "json_invalid", "loc": ["body"], "msg": f"the body is not JSON: {error}"}]
        ) from None


def _places(error: ValidationError) -> list[dict[str, object]]:
    return [
        {"type": found["type"], "loc": ["body", *found["loc"]], "msg": found["msg"]}
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer. NaN is written as the word NaN, as some servers do and JSON readers in Python accept."""
    return Response(to_json(body, inf_nan_mode="constants"), status, headers, media_type=JSON)


def wants_protobuf(request: Request) -> bool:
    """Whether the caller reads protobuf answers."""
    return PROTOBUF in request.headers.get("accept", "")


def sends_protobuf(request: Request) -> bool:
    """Whether the body is protobuf."""
    return request.headers.get("content-type", "").startswith(PROTOBUF)


def refusal(error: Refused) -> Response:
    """The answer to a request that was turned down."""
    return answer({"detail": error.detail}, error.status, error.headers)


def number_in_query(request: Request, name: str, default: int, *, at_most: int | None = None) -> int:
    """A number of the query string, at least zero.

    Raises:
        Refused: 422 if it is no such number.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0 or (at_most is not None and value > at_most):
        allowed = f"0 to {at_most}" if at_most is not None else "0 or more"
        raise Refused(
            422,
            [{"type": "value_error", "loc": ["query", name], "msg": f"{text!r} is not allowed; {allowed} is"}],
        )
    return value


async def on_refused(_request: Request, error: Exception) -> Response:
    """Starlette's handler for :class:`Refused`."""
    if not isinstance(error, Refused):
        raise error
    return refusal(error)


async def on_failed(_request: Request, error: Exception) -> Response:
    """Starlette's handler for an operation that failed outside a promise."""
    if not isinstance(error, OperationFailed):
        raise error
    return answer({"detail": error.message}, 400 if error.fault_of == "user" else 500)


def metadata_of(found: dict[str, Any] | None) -> dict[str, str] | None:
    """User metadata as listings have it: text by name."""
    if found is None:
        return None
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}
