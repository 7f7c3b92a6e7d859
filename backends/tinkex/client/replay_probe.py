"""Detection of whether a server answers a repeated sequence number from its record."""

from backends.tinkex.client.connection import Connection
from backends.tinkex.client.passes import send_pass
from backends.tinkex.client.results import pass_decoding
from backends.tinkex.client.run_channel import RunChannel
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.wire.pass_request_codec import PassRequest
from crucible.errors import InvalidRequest, Unsupported


async def probe_replay(channel: RunChannel) -> bool | None:
    """Send one tiny forward pass twice under one sequence number and compare the request ids.

    Returns the known answer when there is one, and None when the server has no forward route. A forward pass has no
    effect, so the probe is harmless on a server that runs it twice. A server that returns a new id for the repeat
    may still have a record, but counts as one that would run the repeat.
    """
    connection = channel.connection
    if connection.features.replays_seq_id is not None:
        return connection.features.replays_seq_id
    with channel.sequencer.lock:
        ticket = channel.sequencer.reserve(1, None)
    request = PassRequest(channel.model_id, ticket.first, [_tiny_datum()], "cross_entropy", None, forward_only=True)
    try:
        async with channel.sequencer.turn(ticket):
            first = await send_pass(connection, request)
            ticket.accepted = 1
            replays = await _is_replayed(connection, request, first.request_id)
    except Unsupported:
        return None
    await channel.fetch(first.request_id, "forward", "Forward", pass_decoding("forward"))
    connection.memory.learn(replays_seq_id=replays)
    return replays


async def _is_replayed(connection: Connection, request: PassRequest, request_id: str) -> bool:
    try:
        return (await send_pass(connection, request)).request_id == request_id
    except InvalidRequest:
        return False


def _tiny_datum() -> Datum:
    return Datum(
        model_input=ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"target_tokens": [2, 3], "weights": [1.0, 1.0]},
    )
