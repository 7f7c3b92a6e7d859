"""Sending of forward and forward_backward requests in an encoding that the server accepts: protobuf, else JSON.

The encoding is learned from a response that can mean nothing else: an accepted request, or 415. A missing route and
an internal error of the server say nothing about it. What was learned is forgotten when a later 415 contradicts it.
When the server accepts neither encoding, its rejection of the request is the error.
"""

import asyncio
from typing import Any, Final

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.errors import Resource, unsupported
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.body import EncodedBody, json_body
from backends.tinkex.wire.chunks import datum_bytes
from backends.tinkex.wire.compression import compressed
from backends.tinkex.wire.features import Encoding
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, write_pass_request
from crucible.errors import (
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    RequestTimeout,
    Unsupported,
)

_MAYBE_ENCODING: Final = frozenset({400, 404, 405, 415, 422, 500})
_WRONG_ENCODING: Final = 415
_LARGE_BYTES: Final = 1_000_000


async def send_pass(connection: Connection, request: PassRequest) -> AcceptedRequest:
    """Send one chunk of a pass; return once the server has accepted it. Raises CrucibleError."""
    known = connection.features.request_encoding
    try:
        body = None if known == "json" else write_pass_request(request)
    except Unsupported:
        return await _without_protobuf(connection, request)
    try:
        if known == "json":
            return await _send_json(connection, request)
        if known == "protobuf":
            assert body is not None
            return await _send_protobuf(connection, request, body)
    except InvalidRequest as error:
        if error.details.get("status") != _WRONG_ENCODING:
            raise
        # The server has changed, or the encoding was learned from another one.
        connection.memory.learn(request_encoding=None)
    try:
        body = body or write_pass_request(request)
    except Unsupported:
        return await _without_protobuf(connection, request)
    return await _find_encoding(connection, request, body)


async def _find_encoding(connection: Connection, request: PassRequest, body: EncodedBody) -> AcceptedRequest:
    try:
        # No retries here: a JSON server may answer bytes that it cannot read with 500 every time.
        return _learned(connection, "protobuf", await _send_protobuf(connection, request, body, retries=False))
    except (InvalidRequest, BackendUnavailable, Unsupported) as rejection:
        if rejection.details.get("status") in _MAYBE_ENCODING:
            return await _fall_back_to_json(connection, request, body, rejection)
        if not isinstance(rejection, BackendUnavailable):
            raise
    except (CapacityError, RequestTimeout):
        pass
    return await _send_protobuf(connection, request, body)


async def _fall_back_to_json(
    connection: Connection, request: PassRequest, body: EncodedBody, rejection: CrucibleError
) -> AcceptedRequest:
    """Send JSON after a server of unknown encoding has rejected protobuf."""
    refused = rejection.details.get("status") == _WRONG_ENCODING
    if refused:
        connection.memory.learn(request_encoding="json")
    try:
        accepted = await _send_json(connection, request)
        # The forward route says nothing about the encoding of forward_backward.
        return accepted if request.forward_only else _learned(connection, "json", accepted)
    except Unsupported as missing:
        if isinstance(rejection, InvalidRequest) and not refused:
            raise rejection from missing
        if isinstance(rejection, BackendUnavailable):
            return await _send_again(connection, request, body, missing)
        raise
    except InvalidRequest as error:
        if error.details.get("status") != _WRONG_ENCODING:
            raise
        connection.memory.learn(request_encoding=None if refused else "protobuf")
        if isinstance(rejection, BackendUnavailable):
            return await _send_protobuf(connection, request, body)
        raise rejection from None


async def _send_again(
    connection: Connection, request: PassRequest, body: EncodedBody, missing: Unsupported
) -> AcceptedRequest:
    """Send protobuf once more to a server that failed on it and lacks the JSON route: the failure may be over."""
    await connection.transport.sleep(connection.transport.retry.delay_s(0, None))
    try:
        return _learned(connection, "protobuf", await _send_protobuf(connection, request, body, retries=False))
    except BackendUnavailable:
        raise missing from None


async def _without_protobuf(connection: Connection, request: PassRequest) -> AcceptedRequest:
    """Send a chunk that has no protobuf form."""
    try:
        return await _send_json(connection, request)
    except InvalidRequest as error:
        if error.details.get("status") == _WRONG_ENCODING:
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
    value, size = _json_value(request, route)
    body = await asyncio.to_thread(json_body, value) if size > _LARGE_BYTES else json_body(value)
    try:
        return await connection.submit(
            route, body, resource=Resource.RUN, repeatable=_repeatable(connection, request)
        )
    except Unsupported as error:
        raise unsupported(route, server=connection.server) from error


def _repeatable(connection: Connection, request: PassRequest) -> bool:
    # A forward pass has no effect, so running it twice is harmless.
    return request.forward_only or connection.features.replays_seq_id is not False


def _json_value(request: PassRequest, route: str) -> tuple[dict[str, Any], int]:
    """Return the request's JSON and the approximate size of its datums in bytes."""
    data = request.datums()
    inputs: dict[str, Any] = {"data": [datum.body() for datum in data], "loss_fn": request.loss_fn}
    if request.loss_fn_config is not None:
        inputs["loss_fn_config"] = dict(request.loss_fn_config)
    body = {"model_id": request.model_id, "seq_id": request.seq_id, f"{route}_input": inputs}
    return body, sum(map(datum_bytes, data))
