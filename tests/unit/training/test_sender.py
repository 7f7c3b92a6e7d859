"""The sender: sends in order without a gap, and raises its error at the next call."""

import asyncio
from collections import deque
from typing import Any

import pytest

from crucible.errors import BackendUnavailable
from crucible.training import IntentKind, RunFeatures
from nsai_work.training.in_flight import InFlight
from nsai_work.training.operations import Operation
from nsai_work.training.sender import WINDOW, Sender

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver is written for asyncio."""
    return "asyncio"


class Line:
    """A remote run whose sends wait for a permit, and can be made to fail."""

    def __init__(self, *, replays: bool = True) -> None:
        self.features = RunFeatures(replays=replays)
        self.sent: list[int] = []
        self.permits: asyncio.Queue[Exception | None] = asyncio.Queue()

    async def send(self, prepared: Any) -> Any:
        error = await self.permits.get()
        if error is not None:
            raise error
        self.sent.append(prepared)
        return f"pending {prepared}"


def entry(step: int, *, skipped: bool = False) -> InFlight:
    operation = Operation(IntentKind.STEP, step, skipped=skipped)
    return InFlight(operation) if skipped else InFlight(operation, prepared=step)  # type: ignore[arg-type]


def sender_of(*entries: InFlight, replays: bool = True) -> tuple[Sender, Line, deque[InFlight]]:
    line, under_way = Line(replays=replays), deque(entries)
    return Sender(line, under_way), line, under_way  # type: ignore[arg-type]


async def test_all_that_is_unsent_goes_out_in_order_also_what_comes_later() -> None:
    """A skipped step is not sent; an entry added during a send follows it."""
    sender, line, under_way = sender_of(entry(1), entry(2, skipped=True), entry(3))
    sender.start()
    await asyncio.sleep(0)
    under_way.append(entry(4))
    for _ in range(3):
        line.permits.put_nowait(None)

    await sender.sent(under_way[-1])

    assert line.sent == [1, 3, 4]
    assert not any(one.unsent for one in under_way)


async def test_whoever_waits_for_one_does_not_wait_for_those_after_it() -> None:
    """``sent`` returns for the oldest entry while the next send is in progress."""
    sender, line, under_way = sender_of(entry(1), entry(2))
    line.permits.put_nowait(None)

    async with asyncio.timeout(5):
        await sender.sent(under_way[0])

    assert under_way[1].unsent
    await sender.stop()


async def test_an_error_comes_up_and_what_failed_stays_unsent() -> None:
    """Nothing is sent after a failed request; after ``stop`` all unsent entries are sent."""
    sender, line, under_way = sender_of(entry(1), entry(2))
    line.permits.put_nowait(BackendUnavailable("away"))
    with pytest.raises(BackendUnavailable):
        await sender.sent(under_way[1])
    assert [one.unsent for one in under_way] == [True, True]
    with pytest.raises(BackendUnavailable):
        sender.start()

    await sender.stop()
    for _ in range(2):
        line.permits.put_nowait(None)
    await sender.sent(under_way[1])

    assert line.sent == [1, 2]


async def test_a_stop_leaves_what_was_on_its_way_as_unsent() -> None:
    """Its effect is unknown."""
    sender, line, under_way = sender_of(entry(1))
    sender.start()
    await asyncio.sleep(0)

    await sender.stop()
    line.permits.put_nowait(None)
    await asyncio.sleep(0)

    assert under_way[0].unsent
    assert line.sent == []


async def test_where_repeats_run_twice_an_orderly_stop_waits_for_what_is_on_its_way() -> None:
    """Once accepted it is not repeated, and nothing is sent after it."""
    sender, line, under_way = sender_of(entry(1), entry(2), replays=False)
    sender.start()
    await asyncio.sleep(0)
    stopping = asyncio.create_task(sender.stop_orderly())
    await asyncio.sleep(0)
    for _ in range(2):
        line.permits.put_nowait(None)

    async with asyncio.timeout(5):
        await stopping

    assert line.sent == [1]
    assert [one.unsent for one in under_way] == [False, True]


async def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer within the grace period the effect is unknown."""
    monkeypatch.setattr("nsai_work.training.sender.ACCEPTANCE_GRACE_S", 0.01)
    sender, _, under_way = sender_of(entry(1), replays=False)
    sender.start()
    await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await sender.stop_orderly()

    assert under_way[0].unsent


class Lines(Line):
    """A service that runs operations by number; each send has a permit of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = RunFeatures(replays=True, orders=True)
        self.on_their_way: dict[int, asyncio.Future[None]] = {}

    async def send(self, prepared: Any) -> Any:
        self.on_their_way[prepared] = asyncio.get_running_loop().create_future()
        await self.on_their_way[prepared]
        self.sent.append(prepared)
        return f"pending {prepared}"

    async def settle(self, number: int, error: Exception | None = None) -> None:
        """Accept one, or let it fail."""
        future = self.on_their_way.pop(number)
        future.set_exception(error) if error is not None else future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


async def ahead_sender(count: int) -> tuple[Sender, Lines, deque[InFlight]]:
    line, under_way = Lines(), deque(map(entry, range(1, count + 1)))
    sender = Sender(line, under_way)  # type: ignore[arg-type]
    sender.start()
    await asyncio.sleep(0)
    return sender, line, under_way


async def test_once_the_first_is_accepted_a_window_goes_out() -> None:
    """And whichever is accepted next, the window moves on; in the order of the numbers."""
    sender, line, under_way = await ahead_sender(WINDOW + 4)
    assert [*line.on_their_way] == [1]
    await line.settle(1)
    assert [*line.on_their_way] == [*range(2, WINDOW + 2)]

    await line.settle(9)
    await line.settle(2)

    assert [*line.on_their_way] == [*range(3, 9), *range(10, WINDOW + 4)]
    assert [one.operation.step for one in under_way if not one.unsent] == [1, 2, 9]
    await sender.stop()


async def test_after_one_has_failed_nothing_more_goes_out_and_the_missing_one_is_sent_first() -> None:
    """Those that were on their way may still be accepted; a stop forgets the others, whose effect is unknown."""
    sender, line, under_way = await ahead_sender(6)
    await line.settle(1)
    under_way.append(entry(7))
    await line.settle(3, BackendUnavailable("away"))
    await line.settle(5)

    with pytest.raises(BackendUnavailable):
        sender.start()
    assert 7 not in line.on_their_way
    assert sender.left_hole
    line.on_their_way.clear()
    await sender.stop()
    assert [one.operation.step for one in under_way if one.unsent] == [2, 3, 4, 6, 7]
    sender.start()
    await asyncio.sleep(0)
    assert [*line.on_their_way] == [2]
    await line.settle(2)
    assert [*line.on_their_way] == [3, 4, 6, 7]
    await sender.stop()


async def test_the_last_one_that_fails_has_none_behind_it() -> None:
    """Then no hole is left."""
    sender, line, _ = await ahead_sender(2)
    await line.settle(1)
    await line.settle(2, BackendUnavailable("away"))
    with pytest.raises(BackendUnavailable):
        sender.start()
    assert not sender.left_hole
    await sender.stop()
