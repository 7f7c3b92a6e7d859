"""Finding out, without harm, what a server does with a sequence number that it has seen."""

from typing import TYPE_CHECKING

from backends.tinkex.client.connection import Connection
from backends.tinkex.client.passes import send_pass
from backends.tinkex.client.results import pass_decoding
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.wire.pass_request_codec import PassRequest
from crucible.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from backends.tinkex.client.training import TrainingClient


async def probe_replay(client: "TrainingClient") -> bool | None:
    """Send one tiny forward pass twice under one number: one request id or two? Known answers are not asked again.

    A forward pass changes nothing, so it is harmless where the server runs it twice. A server that answers the
    repeat with an id of its own may still hold a record; it counts as one that runs it again.
    """
    connection = client.service.connection
    if connection.features.replays_seq_id is not None:
        return connection.features.replays_seq_id
    with client.lane.guard:
        ticket = client.lane.take(1, None)
    request = PassRequest(client.model_id, ticket.first, [_tiny()], "cross_entropy", None, forward_only=True)
    try:
        async with client.lane.turn(ticket):
            first = await send_pass(connection, request)
            ticket.accepted = 1
            replays = await _same_id(connection, request, first.request_id)
    except Unsupported:
        return None
    await client.fetch(first.request_id, "forward", "Forward", pass_decoding("forward"))
    connection.memory.learn(replays_seq_id=replays)
    return replays


async def _same_id(connection: Connection, request: PassRequest, request_id: str) -> bool:
    try:
        return (await send_pass(connection, request)).request_id == request_id
    except InvalidRequest:
        return False


def _tiny() -> Datum:
    return Datum(
        model_input=ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"target_tokens": [2, 3], "weights": [1.0, 1.0]},
    )
