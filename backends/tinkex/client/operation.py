"""One call of a run: one or several requests sent in turn, and one result."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from backends.tinkex.client.lane import Lane, Ticket
from backends.tinkex.types.responses import AcceptedRequest

T = TypeVar("T")


class Operation(Generic[T]):
    """``send_one(seq_id, index)`` sends request number ``index``; ``read`` makes the result of all of them."""

    def __init__(
        self,
        lane: Lane,
        count: int,
        seq_id: int | None,
        send_one: Callable[[int, int], Coroutine[Any, Any, AcceptedRequest]],
        read: Callable[[Sequence[AcceptedRequest]], Coroutine[Any, Any, T]],
        before: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._lane = lane
        self._count = count
        self._seq_id = seq_id
        self._send_one = send_one
        self._read = read
        self._before = before
        self._accepted: list[AcceptedRequest] = []
        self._ended: asyncio.Event | None = None
        self._abandoned = False

    @property
    def request_ids(self) -> list[str]:
        """The server's ids of what it has accepted."""
        return [accepted.request_id for accepted in self._accepted]

    def take(self, lane: Lane) -> Ticket:
        """Its place in line. Call with the lane's guard held."""
        return lane.take(self._count, self._seq_id)

    async def send(self, ticket: Ticket) -> None:
        """Send all of it in its turn; returns once the server has accepted all."""
        async with self._lane.turn(ticket):
            await self._before()
            for index, seq_id in enumerate(ticket.seq_ids):
                self._accepted.append(await self._send_one(seq_id, index))
                ticket.accepted += 1
            self._ended = self._lane.under_way()
            if self._abandoned:
                self._ended.set()

    async def finish(self) -> T:
        """Wait for the result of what was sent."""
        try:
            return await self._read(self._accepted)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Nobody waits for the result (any more): what comes after need not wait for it either."""
        self._abandoned = True
        if self._ended is not None:
            self._ended.set()

    async def run(self, ticket: Ticket) -> T:
        """Send, then wait."""
        await self.send(ticket)
        return await self.finish()
