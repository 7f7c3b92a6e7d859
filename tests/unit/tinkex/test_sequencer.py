"""Sequence numbers and the order of sending."""

import asyncio

import pytest

from backends.tinkex.client.training.sequencer import RequestSequencer, Ticket
from backends.tinkex.errors import RequestNotSent
from crucible.errors import AnswerLost, BackendUnavailable, CrucibleError, InvalidRequest


async def send(
    sequencer: RequestSequencer, ticket: Ticket, sent: list[int], error: CrucibleError | None = None
) -> None:
    """Take a turn and fail in it if told so."""
    async with sequencer.turn(ticket):
        await asyncio.sleep(0)
        if error is not None:
            raise error
        sent.append(ticket.first)


def test_requests_go_out_in_the_order_of_the_calls() -> None:
    """Whatever runs first."""

    async def scenario() -> list[int]:
        sequencer, sent = RequestSequencer(), list[int]()
        tickets = [sequencer.reserve(count, None) for count in (1, 3, 1)]
        await asyncio.gather(*(send(sequencer, ticket, sent) for ticket in tickets))
        assert sequencer.next_seq_id == 6
        return sent

    assert asyncio.run(scenario()) == [1, 2, 5]


@pytest.mark.parametrize(
    ("error", "following"),
    [
        pytest.param(InvalidRequest("no"), 1, id="refused: the number is still free"),
        pytest.param(BackendUnavailable("no", details={"never_sent": True}), 1, id="never sent"),
        pytest.param(AnswerLost("who knows"), 2, id="effect unknown: the number may be taken"),
    ],
)
def test_after_a_failure_those_behind_are_not_sent(error: CrucibleError, following: int) -> None:
    """They fail as not sent; a later call goes out under the number that the server expects."""

    async def scenario() -> None:
        sequencer, sent = RequestSequencer(), list[int]()
        tickets = [sequencer.reserve(1, None) for _ in range(3)]
        results = await asyncio.gather(
            send(sequencer, tickets[0], sent, error),
            *(send(sequencer, ticket, sent) for ticket in tickets[1:]),
            return_exceptions=True,
        )
        assert results[0] is error
        assert all(isinstance(result, RequestNotSent) for result in results[1:])
        assert sequencer.next_seq_id == following
        await send(sequencer, sequencer.reserve(1, None), sent)
        assert sent == [following]

    asyncio.run(scenario())


def test_a_number_of_the_callers_is_used_as_it_is() -> None:
    """A repeat of an old number moves nothing back; a new one moves the next on."""

    async def scenario() -> None:
        sequencer, sent = RequestSequencer(7), list[int]()
        await send(sequencer, sequencer.reserve(1, 3), sent)
        assert sequencer.next_seq_id == 7
        with pytest.raises(InvalidRequest):
            await send(sequencer, sequencer.reserve(1, 9), sent, InvalidRequest("no"))
        assert sequencer.next_seq_id == 10

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [-1, -100])
def test_a_negative_number_is_refused(number: int) -> None:
    """Numbers count from 1."""
    sequencer = RequestSequencer()
    with pytest.raises(InvalidRequest):
        sequencer.reserve(1, number)
    with pytest.raises(InvalidRequest):
        sequencer.next_seq_id = number
