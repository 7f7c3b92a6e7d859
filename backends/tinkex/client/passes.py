"""Sending forward and forward_backward passes in an encoding that the server takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.tinkex.client.connection import Connection
from backends.tinkex.errors import Sought, unsupported
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.body import json_body
from crucible.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Pass:
    """One chunk of a batch."""

    model_id: str
    seq_id: int
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str] | None
    forward_only: bool

    @property
    def route(self) -> str:
        """The route of its JSON form."""
        return "forward" if self.forward_only else "forward_backward"


async def send_pass(connection: Connection, request: Pass) -> AcceptedRequest:
    """Send one chunk; returns once the server has accepted it. Raises CrucibleError."""
    return await _send_json(connection, request)


async def _send_json(connection: Connection, request: Pass) -> AcceptedRequest:
    # A forward pass changes nothing, so running it twice is harmless.
    repeatable = request.forward_only or connection.features.replays_seq_id is not False
    try:
        return await connection.submit(
            request.route, json_body(_json_form(request)), sought=Sought.RUN, repeatable=repeatable
        )
    except Unsupported as error:
        raise unsupported(request.route, server=connection.server) from error


def _json_form(request: Pass) -> dict[str, Any]:
    given: dict[str, Any] = {"data": [datum.body() for datum in request.data], "loss_fn": request.loss_fn}
    if request.loss_fn_config is not None:
        given["loss_fn_config"] = dict(request.loss_fn_config)
    return {"model_id": request.model_id, "seq_id": request.seq_id, f"{request.route}_input": given}
