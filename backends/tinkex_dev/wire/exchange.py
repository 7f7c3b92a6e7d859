"""Reading of request bodies, and JSON answers: shared by all routes."""

import asyncio
import json
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from backends.tinkex_dev.errors import InvalidField, OperationFailed, Refused
from backends.tinkex_dev.wire.requests import RequestBody
from crucible.http.decompression import BodyDecoder, BodyTooLarge, InvalidBody, UnknownEncoding

JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
MAX_BODY_BYTES: Final = 256 * 1024 * 1024
_THREAD_FROM_BYTES: Final = 256 * 1024
"""Bigger bodies are parsed in a thread, so that they do not block the event loop."""
B = TypeVar("B", bound=RequestBody)


async def read_body(request: Request) -> bytes:
    """Read a body, decompressed if necessary.

    Raises:
        Refused: 413 if it is too big, 415 for an unknown content encoding, 400 if it cannot be decompressed.
    """
    blocks: list[bytes] = []
    try:
        decoder = BodyDecoder(request.headers.get("content-encoding", ""), MAX_BODY_BYTES)
        async for data in request.stream():
            blocks += decoder.feed(data)
        decoder.finish()
    except UnknownEncoding as error:
        raise Refused(415, str(error)) from None
    except BodyTooLarge as error:
        raise Refused(413, str(error)) from None
    except InvalidBody as error:
        raise Refused(400, str(error)) from None
    return b"".join(blocks)


async def read(request: Request, kind: type[B]) -> B:
    """Read and validate a JSON body.

    Raises:
        InvalidField: it is not JSON, or a field is missing or invalid.
    """
    data = await read_body(request)
    if len(data) > _THREAD_FROM_BYTES:
        return await asyncio.to_thread(parse, data, kind)
    return parse(data, kind)


def parse(data: bytes, kind: type[B]) -> B:
    """Validate a JSON body given as bytes. Raises InvalidField as :func:`read`."""
    try:
        return kind.model_validate(from_json(data))
    except ValidationError as error:
        raise InvalidField(422, validation_details(error)) from None
    except ValueError as error:
        raise InvalidField(
            422, [{"type": "json_invalid", "loc": ["body"], "msg": f"the body is not JSON: {error}"}]
        ) from None


def validation_details(error: ValidationError) -> list[dict[str, object]]:
    """The errors of a validation in the service's form."""
    return [
        {"type": item["type"], "loc": ["body", *item["loc"]], "msg": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer. NaN is written as ``NaN``, which some servers do and Python's JSON parsers accept."""
    return Response(to_json(body, inf_nan_mode="constants"), status, headers, media_type=JSON)


def wants_protobuf(request: Request) -> bool:
    """Check whether the client accepts protobuf answers."""
    return PROTOBUF in request.headers.get("accept", "")


def sends_protobuf(request: Request) -> bool:
    """Check whether the body is protobuf."""
    return request.headers.get("content-type", "").startswith(PROTOBUF)


def refusal(error: Refused) -> Response:
    """The answer to a refused request."""
    return answer({"detail": error.detail}, error.status, error.headers)


def query_number(request: Request, name: str, default: int) -> int:
    """A non-negative integer from the query string.

    Raises:
        Refused: 422 for anything else.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        message = f"{text!r} is not allowed; expected an integer of 0 or more"
        raise Refused(422, [{"type": "value_error", "loc": ["query", name], "msg": message}])
    return value


async def on_refused(_request: Request, error: Exception) -> Response:
    """Exception handler for :class:`Refused`."""
    if not isinstance(error, Refused):
        raise error
    return refusal(error)


async def on_failed(_request: Request, error: Exception) -> Response:
    """Exception handler for :class:`OperationFailed` raised outside a promise."""
    if not isinstance(error, OperationFailed):
        raise error
    return answer({"detail": error.message}, 400 if error.fault_of == "user" else 500)


def metadata_strings(metadata: dict[str, Any] | None) -> dict[str, str] | None:
    """User metadata as in listings: values that are not strings are written as JSON."""
    if metadata is None:
        return None
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
