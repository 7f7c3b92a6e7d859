"""Calls side by side."""

import asyncio
from functools import partial

import pytest

from crucible.runtime.side_by_side import side_by_side


def test_results_come_in_the_order_of_the_calls_and_no_more_run_than_allowed() -> None:
    """Whichever is done first."""
    running, most = 0, 0

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - number):
            await asyncio.sleep(0)
        running -= 1
        return number

    assert asyncio.run(side_by_side([partial(call, number) for number in range(10)], limit=3)) == [*range(10)]
    assert most == 3


def test_the_first_error_in_their_order_is_raised_and_the_others_end() -> None:
    """Although a later one failed before it."""
    ended = []

    async def call(number: int) -> None:
        try:
            await asyncio.sleep(0 if number == 2 else 0.01 if number == 1 else 0 if number == 0 else 60)
            if number:
                raise ValueError(number)
        finally:
            ended.append(number)

    with pytest.raises(ValueError, match="1"):
        asyncio.run(side_by_side([partial(call, number) for number in range(4)]))
    assert sorted(ended) == [0, 1, 2, 3]
