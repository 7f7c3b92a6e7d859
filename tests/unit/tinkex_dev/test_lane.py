"""A model's queue of operations."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.tinkex_dev.options import Order
from backends.tinkex_dev.service.lane import ServerLane
from backends.tinkex_dev.service.promises import Failed, Plain, Promise


@settings(max_examples=30)
@given(order=st.permutations(range(1, 8)), refused=st.sets(st.integers(1, 7), max_size=3))
def test_every_order_of_arrival_runs_in_order_of_number(order: list[int], refused: set[int]):
    """Refused numbers are skipped; all others run in order."""
    ran: list[int] = []

    async def main() -> None:
        lane = ServerLane()
        promises = []
        for number in order:
            if number in refused:
                lane.skip(number)
                continue
            promises.append(Promise(str(number), "x", None))

            async def work(number: int = number) -> Plain:
                await asyncio.sleep(0)
                ran.append(number)
                return Plain({})

            lane.submit(number, promises[-1], work)
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*(promise.done.wait() for promise in promises)), 5)

    asyncio.run(main())

    assert ran == sorted(set(order) - refused)


def test_a_closed_lane_fails_what_waits_and_what_comes():
    """No waiter blocks on an unloaded model, and a failed operation does not stop the lane."""

    async def main() -> list[object]:
        lane = ServerLane()

        async def broken() -> Plain:
            raise ZeroDivisionError("oh")

        promises = [Promise(str(number), "x", None) for number in range(3)]
        lane.submit(1, promises[0], broken)
        lane.submit(3, promises[1], broken)
        await promises[0].done.wait()
        lane.close("gone")
        lane.submit(4, promises[2], broken)
        await asyncio.gather(*(promise.done.wait() for promise in promises))
        return [promise.result for promise in promises]

    assert asyncio.run(main()) == [
        Failed("ZeroDivisionError: oh", "server"),
        Failed("gone", "server"),
        Failed("gone", "server"),
    ]


@settings(max_examples=30)
@given(order=st.permutations(range(1, 7)), kind=st.sampled_from([Order.ARRIVAL, Order.STRICT]))
def test_other_servers_run_operations_as_they_arrive(order: list[int], kind: Order):
    """Whatever their numbers; a strict one fails those that are early."""
    ran: list[int] = []

    async def main() -> list[object]:
        lane = ServerLane(order=kind)
        promises = []
        for number in order:
            promises.append(Promise(str(number), "x", None))

            async def work(number: int = number) -> Plain:
                ran.append(number)
                return Plain({})

            lane.submit(number, promises[-1], work)
        await asyncio.wait_for(asyncio.gather(*(promise.done.wait() for promise in promises)), 5)
        return [promise.result for promise in promises]

    results = asyncio.run(main())

    if kind is Order.ARRIVAL:
        assert ran == order
    else:
        expected = 1
        for number, result in zip(order, results, strict=True):
            early = number > expected
            assert result == (Failed(f"expected seq_id {expected}, got {number}", "user") if early else Plain({}))
            expected += number == expected
        assert ran == sorted(ran)
