"""Sequence numbers and the order of sending."""

import asyncio

import pytest

from backends.tinkex.client.training.channel.sequencer import RequestSequencer, Ticket
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


async def stay(sequencer: RequestSequencer, ticket: Ticket, log: list[str], go: asyncio.Event) -> None:
    """Be sent, and accepted once that is allowed."""
    async with sequencer.turn(ticket):
        log.append(f"sent {ticket.first}")
        await go.wait()
        sequencer.mark_accepted()
    log.append(f"accepted {ticket.first}")


def test_where_numbers_order_those_of_the_caller_wait_for_the_first_alone() -> None:
    """Later ones go out at once, in the order of the calls, and are accepted in any order. A failure of one
    concerns no other, and moves no number."""

    async def scenario() -> None:
        sequencer, log = RequestSequencer(5, orders=lambda: True), list[str]()
        tickets = [sequencer.reserve(1, number) for number in (5, 6, 7, 8)]
        permits = [asyncio.Event() for _ in tickets]
        calls = [
            asyncio.create_task(stay(sequencer, ticket, log, permit))
            for ticket, permit in zip(tickets, permits, strict=True)
        ]
        await asyncio.sleep(0.01)
        assert log == ["sent 5"]
        permits[0].set()
        await calls[0]
        await asyncio.sleep(0.01)
        assert log[2:] == ["sent 6", "sent 7", "sent 8"]
        calls[1].cancel()
        for place in (3, 2):
            permits[place].set()
            await calls[place]
        assert log[5:] == ["accepted 8", "accepted 7"]
        assert sequencer.next_seq_id == 9
        await stay(sequencer, sequencer.reserve(1, 6), log, permits[0])
        assert log[-1] == "accepted 6"

    asyncio.run(scenario())


@pytest.mark.parametrize("orders", [True, False])
def test_numbers_that_the_caller_has_not_chosen_wait_for_acceptance(orders: bool) -> None:
    """The next call may have to use the number of one that is refused, which must then be the last."""

    async def scenario() -> None:
        sequencer, log = RequestSequencer(orders=lambda: orders), list[str]()
        first, go = asyncio.Event(), asyncio.Event()
        first.set()
        await stay(sequencer, sequencer.reserve(1, None), log, first)
        calls = [asyncio.create_task(stay(sequencer, sequencer.reserve(1, None), log, go)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert log[2:] == ["sent 2"]
        go.set()
        await asyncio.gather(*calls)

    asyncio.run(scenario())
