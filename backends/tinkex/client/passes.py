"""Sending forward and forward_backward passes in an encoding that the server takes: protobuf first, then JSON.

Which one a server takes is learned from its first answer and remembered. A server that takes neither refuses the
request itself, and that refusal is the error.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from backends.tinkex.client.connection import Connection
from backends.tinkex.errors import Sought, unsupported
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.body import Body, json_body
from backends.tinkex.wire.chunking import datum_bytes
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

_OTHER_ENCODING: Final = frozenset({400, 415, 422, 500})
_LARGE: Final = 1_000_000


async def send_pass(connection: Connection, request: PassRequest) -> AcceptedRequest:
    """Send one chunk; returns once the server has accepted it. Raises CrucibleError."""
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
        # Not sent again here: a JSON server may answer bytes that it cannot read with 500, time after time.
        return _learned(connection, "protobuf", await _send_protobuf(connection, request, body, retries=False))
    except (InvalidRequest, BackendUnavailable) as refused:
        if refused.details.get("status") not in _OTHER_ENCODING:
            if isinstance(refused, InvalidRequest):
                raise
            return await _send_protobuf(connection, request, body)
        return await _instead(connection, request, body, refused)
    except (CapacityError, RequestTimeout):
        return await _send_protobuf(connection, request, body)


async def _instead(
    connection: Connection, request: PassRequest, body: Body, refused: InvalidRequest | BackendUnavailable
) -> AcceptedRequest:
    """JSON, after protobuf was refused by a server whose encoding is not known."""
    try:
        return _learned(connection, "json", await _send_json(connection, request))
    except CrucibleError as error:
        if error.details.get("status") == 415 or isinstance(error, Unsupported):
            connection.memory.learn(request_encoding="protobuf")
            if isinstance(refused, InvalidRequest):
                raise refused from None
            return await _send_protobuf(connection, request, body)
        if refused.details.get("status") in (415, 500):
            connection.memory.learn(request_encoding="json")
        raise


async def _without_protobuf(connection: Connection, request: PassRequest) -> AcceptedRequest:
    """For chunks that protobuf has no form for."""
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
    connection: Connection, request: PassRequest, body: Body, *, retries: bool = True
) -> AcceptedRequest:
    if (await connection.client_config()).proto_compress_fwdbwd:
        body = await asyncio.to_thread(compressed, body)
    return await connection.submit(
        "forward_backward",
        body,
        sought=Sought.RUN,
        repeatable=_repeatable(connection, request),
        retries=retries,
    )


async def _send_json(connection: Connection, request: PassRequest) -> AcceptedRequest:
    route = "forward" if request.forward_only else "forward_backward"
    form = _json_form(request, route)
    if sum(map(datum_bytes, request.data)) > _LARGE:
        body = await asyncio.to_thread(json_body, form)
    else:
        body = json_body(form)
    try:
        return await connection.submit(route, body, sought=Sought.RUN, repeatable=_repeatable(connection, request))
    except Unsupported as error:
        raise unsupported(route, server=connection.server) from error


def _repeatable(connection: Connection, request: PassRequest) -> bool:
    # A forward pass changes nothing, so running it twice is harmless.
    return request.forward_only or connection.features.replays_seq_id is not False


def _json_form(request: PassRequest, route: str) -> dict[str, Any]:
    data: Sequence[Datum] = request.data
    given: dict[str, Any] = {"data": [datum.body() for datum in data], "loss_fn": request.loss_fn}
    if request.loss_fn_config is not None:
        given["loss_fn_config"] = dict(request.loss_fn_config)
    return {"model_id": request.model_id, "seq_id": request.seq_id, f"{route}_input": given}
