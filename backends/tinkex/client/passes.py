"""Sending of forward and forward_backward requests in an encoding that the server accepts: protobuf, else JSON.

The accepted encoding is learned from the first response and remembered. When the server accepts neither, its
rejection of the request is the error.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from backends.tinkex.client.connection import Connection
from backends.tinkex.errors import Resource, unsupported
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.body import EncodedBody, json_body
from backends.tinkex.wire.chunks import datum_bytes
from backends.tinkex.wire.compression import compressed
from backends.tinkex.wire.features import Encoding
from backends.tinkex.wire.pass_request_codec import PassRequest, write_pass_request
from crucible.errors import (
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    RequestTimeout,
    Unsupported,
)

_ENCODING_REJECTED: Final = frozenset({400, 415, 422, 500})
_LARGE_BYTES: Final = 1_000_000


async def send_pass(connection: Connection, request: PassRequest) -> AcceptedRequest:
    """Send one chunk of a pass; return once the server has accepted it. Raises CrucibleError."""
    known = connection.features.request_encoding
    if known == "json":
        return await _send_json(connection, request)
    try:
        body = write_pass_request(request)
    except Unsupported:
        return await _without_protobuf(connection, request)
    if known == "protobuf":
        return await _send_protobuf(connection, request, body)
    try:
        # No retries here: a JSON server may answer bytes that it cannot read with 500 every time.
        return _learned(connection, "protobuf", await _send_protobuf(connection, request, body, retries=False))
    except (InvalidRequest, BackendUnavailable) as rejection:
        if rejection.details.get("status") not in _ENCODING_REJECTED:
            if isinstance(rejection, InvalidRequest):
                raise
            return await _send_protobuf(connection, request, body)
        return await _fall_back_to_json(connection, request, body, rejection)
    except (CapacityError, RequestTimeout):
        return await _send_protobuf(connection, request, body)


async def _fall_back_to_json(
    connection: Connection, request: PassRequest, body: EncodedBody, rejection: InvalidRequest | BackendUnavailable
) -> AcceptedRequest:
    """Send JSON after a server of unknown encoding has rejected protobuf."""
    try:
        return _learned(connection, "json", await _send_json(connection, request))
    except CrucibleError as error:
        if error.details.get("status") == 415 or isinstance(error, Unsupported):
            connection.memory.learn(request_encoding="protobuf")
            if isinstance(rejection, InvalidRequest):
                raise rejection from None
            return await _send_protobuf(connection, request, body)
        if rejection.details.get("status") in (415, 500):
            connection.memory.learn(request_encoding="json")
        raise


async def _without_protobuf(connection: Connection, request: PassRequest) -> AcceptedRequest:
    """Send a chunk that has no protobuf form."""
    try:
        return await _send_json(connection, request)
    except InvalidRequest as error:
        if error.details.get("status") == 415:
            raise unsupported("this kind of chunk in training", server=connection.server) from error
        raise


def _learned(connection: Connection, encoding: Encoding, accepted: AcceptedRequest) -> AcceptedRequest:
    if connection.features.request_encoding != encoding:
        connection.memory.learn(request_encoding=encoding)
    return accepted


async def _send_protobuf(
    connection: Connection, request: PassRequest, body: EncodedBody, *, retries: bool = True
) -> AcceptedRequest:
    if (await connection.client_config()).proto_compress_fwdbwd:
        body = await asyncio.to_thread(compressed, body)
    return await connection.submit(
        "forward_backward",
        body,
        resource=Resource.RUN,
        repeatable=_repeatable(connection, request),
        retries=retries,
    )


async def _send_json(connection: Connection, request: PassRequest) -> AcceptedRequest:
    route = "forward" if request.forward_only else "forward_backward"
    value = _json_value(request, route)
    if sum(map(datum_bytes, request.data)) > _LARGE_BYTES:
        body = await asyncio.to_thread(json_body, value)
    else:
        body = json_body(value)
    try:
        return await connection.submit(
            route, body, resource=Resource.RUN, repeatable=_repeatable(connection, request)
        )
    except Unsupported as error:
        raise unsupported(route, server=connection.server) from error


def _repeatable(connection: Connection, request: PassRequest) -> bool:
    # A forward pass has no effect, so running it twice is harmless.
    return request.forward_only or connection.features.replays_seq_id is not False


def _json_value(request: PassRequest, route: str) -> dict[str, Any]:
    data: Sequence[Datum] = request.data
    inputs: dict[str, Any] = {"data": [datum.body() for datum in data], "loss_fn": request.loss_fn}
    if request.loss_fn_config is not None:
        inputs["loss_fn_config"] = dict(request.loss_fn_config)
    return {"model_id": request.model_id, "seq_id": request.seq_id, f"{route}_input": inputs}
