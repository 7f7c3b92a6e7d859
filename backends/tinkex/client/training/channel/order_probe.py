"""Detection of whether a server runs a run's requests by their sequence numbers, in whatever order they arrive."""

import asyncio
import random
from typing import Final

from backends.tinkex.client.requests.passes import send_pass
from backends.tinkex.client.requests.results import pass_decoding
from backends.tinkex.client.training.channel.replay_probe import tiny_datum
from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.errors import BACKEND, OrderUnclear
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest
from crucible.errors import AuthenticationFailed, CapacityError, CrucibleError, OutOfCredit

_WORTHWHILE_S: Final = 0.01
"""A round trip below which sending ahead gains too little to ask for it."""
_TRIALS: Final = 3
_PATIENCE: Final = (2.0, 5.0)
"""The time for which a request must be held, in durations of one that is not. A random one in each trial: a request
that was only slow would have to end, by chance, just after each of them."""
_MAX_DURATION_S: Final = 1.0
"""A server that needs longer for two tokens is not asked: its work, not the network, takes the time."""
_GRACE_S: Final = 0.1
_GIVE_UP_S: Final = 20.0


async def probe_order(channel: RunChannel) -> bool | None:
    """Send pairs of tiny forward passes, the second number some time before the first, and see when it runs.

    A server orders if, each time, the second has no result before the first is sent, and soon has one then. It is
    asked once, and only if it is known to answer repeats, lets clients send in parallel
    (``parallel_fwdbwd_chunks``), and is so far away that sending ahead gains something; else the answer is None. A
    forward pass has no effect.

    Raises:
        OrderUnclear: the server has no place for a request before its turn; use another run.
        BackendError: any other request would fail too.
    """
    connection, memory = channel.connection, channel.connection.memory
    known = connection.features
    if known.replays_seq_id is not True or known.orders_seq_id is not None or memory.asked_order:
        return known.orders_seq_id
    memory.asked_order = True
    if not (await connection.client_config()).parallel_fwdbwd_chunks:
        return None
    duration_s = await _duration_s(channel)
    if duration_s is None or duration_s > _MAX_DURATION_S:
        return None
    orders = True
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            for _ in range(_TRIALS):
                orders = orders and await _runs_by_number(channel, duration_s)
    except (AuthenticationFailed, CapacityError, OutOfCredit):
        raise
    except (CrucibleError, TimeoutError) as error:
        memory.learn(orders_seq_id=False)
        raise OrderUnclear(
            f"run {channel.model_id}: a request that arrived before its turn failed ({error})", backend=BACKEND
        ) from error
    memory.learn(orders_seq_id=orders)
    return orders


async def _duration_s(channel: RunChannel) -> float | None:
    """Return the seconds from the acceptance of a pass to its result; None if the server is too near to matter."""
    clock = channel.connection.transport.clock
    with channel.sequencer.lock:
        ticket = channel.sequencer.reserve(1, None)
    async with channel.sequencer.turn(ticket):
        sent_at = clock()
        accepted = await send_pass(channel.connection, _pass(channel, ticket.first))
        ticket.accepted = 1
    accepted_at = clock()
    await _result(channel, accepted)
    return None if accepted_at - sent_at < _WORTHWHILE_S else clock() - accepted_at


async def _runs_by_number(channel: RunChannel, duration_s: float) -> bool:
    """Send two passes, the second first; return whether it waited for the other one."""
    connection = channel.connection
    with channel.sequencer.lock:
        ticket = channel.sequencer.reserve(2, None)
    first, second = ticket.seq_ids
    async with channel.sequencer.turn(ticket):
        early = await send_pass(connection, _pass(channel, second))
        result = asyncio.create_task(_result(channel, early))
        try:
            await asyncio.wait({result}, timeout=duration_s * random.uniform(*_PATIENCE))  # noqa: S311
            held = not result.done()
            late = await send_pass(connection, _pass(channel, first))
            ticket.accepted = ticket.count
            await _result(channel, late)
            await asyncio.wait({result}, timeout=2 * duration_s + _GRACE_S)
            held = held and result.done()
            await result
        finally:
            result.cancel()
            await asyncio.gather(result, return_exceptions=True)
    return held


def _pass(channel: RunChannel, seq_id: int) -> PassRequest:
    return PassRequest(channel.model_id, seq_id, [tiny_datum()], "cross_entropy", None, forward_only=True)


async def _result(channel: RunChannel, accepted: AcceptedRequest) -> None:
    await channel.fetch(accepted.request_id, "forward", "Forward", pass_decoding("forward"))
