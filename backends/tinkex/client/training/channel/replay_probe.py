"""Detection of whether a server answers a repeated sequence number from its record."""

from typing import Final

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.passes import send_pass
from backends.tinkex.client.requests.results import pass_decoding
from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest
from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CallerError,
    CapacityError,
    InvalidRequest,
    OutOfCredit,
    RequestTimeout,
)

_INTERNAL_ERROR: Final = 500


async def probe_replay(channel: RunChannel) -> bool | None:
    """Send one tiny forward pass twice under one sequence number and compare the request ids.

    Returns the known answer when there is one, and None when the server cannot run the forward pass: that says
    nothing about training. A forward pass has no effect, so the probe is harmless on a server that runs it twice.
    A server that returns a new id for the repeat may still have a record, but counts as one that would run it.

    Raises:
        BackendError: any other request would fail too: there is no connection, credential, capacity or credit.
    """
    connection = channel.connection
    if connection.features.replays_seq_id is not None:
        return connection.features.replays_seq_id
    with channel.sequencer.lock:
        ticket = channel.sequencer.reserve(1, None)
    request = PassRequest(channel.model_id, ticket.first, [tiny_datum()], "cross_entropy", None, forward_only=True)
    try:
        async with channel.sequencer.turn(ticket):
            first = await send_pass(connection, request)
            ticket.accepted = 1
            replays = await _is_replayed(connection, request, first.request_id)
        await channel.fetch(first.request_id, "forward", "Forward", pass_decoding("forward"))
    except (AuthenticationFailed, CapacityError, OutOfCredit, RequestTimeout):
        raise
    except (BackendError, CallerError) as error:
        status = error.details.get("status")
        if isinstance(error, BackendUnavailable) and "category" not in error.details and status != _INTERNAL_ERROR:
            raise
        return None
    connection.memory.learn(replays_seq_id=replays)
    return replays


async def _is_replayed(connection: Connection, request: PassRequest, request_id: str) -> bool:
    try:
        return (await send_pass(connection, request)).request_id == request_id
    except InvalidRequest:
        return False


def tiny_datum() -> Datum:
    """Return an example of two tokens, the smallest that every model can read."""
    return Datum(
        model_input=ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"target_tokens": [2, 3], "weights": [1.0, 1.0]},
    )
