"""The order of one run's requests: sequence numbers, one sender at a time, and where a server may not keep their
order, one request at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from backends.tinkex.errors import BACKEND, RequestNotSent, invalid
from crucible.errors import (
    AnswerLost,
    BackendUnavailable,
    CrucibleError,
    MalformedAnswer,
    RequestTimeout,
)

_EFFECT_UNKNOWN: Final = (AnswerLost, BackendUnavailable, MalformedAnswer, RequestTimeout)


@dataclass(slots=True)
class Ticket:
    """Sequence numbers ``first`` to ``first + count - 1``, in the order of the calls. ``accepted`` counts up."""

    first: int
    count: int
    chosen_by_caller: bool
    era: int
    accepted: int = 0

    @property
    def seq_ids(self) -> range:
        """All of its numbers."""
        return range(self.first, self.first + self.count)


class Lane:
    """Numbers requests and sends them in the order in which they were made.

    When one is not accepted, those made after it and still waiting are not sent (RequestNotSent), and the next
    call takes the number that the server still expects.

    ``one_at_a_time``: whether a request may only be sent once the one before it has its result. A server that keeps
    no record of sequence numbers may run an optimizer step before the gradients that were sent ahead of it: SkyRL
    0.3.0 reads its queue in several queries, and does so when both arrive between two of them.
    """

    def __init__(self, next_seq_id: int = 1, *, one_at_a_time: Callable[[], bool] = lambda: False) -> None:
        self._guard = threading.Lock()
        self._one_at_a_time = one_at_a_time
        self._newest: asyncio.Event | None = None
        self._next = next_seq_id
        self._era = 0
        self._sending: asyncio.Lock | None = None
        self._failed: CrucibleError | None = None

    @property
    def guard(self) -> threading.Lock:
        """Held while a number is taken and the request is put in line, so that both have one order."""
        return self._guard

    @property
    def next_seq_id(self) -> int:
        """The first number that no request has."""
        return self._next

    @next_seq_id.setter
    def next_seq_id(self, value: int) -> None:
        if value < 0:
            raise invalid("next_seq_id", value, "it counts from 1")
        self._next = value

    def take(self, count: int, seq_id: int | None) -> Ticket:
        """Numbers for one call. A number given by the caller is used as it is. Call with ``guard`` held."""
        if seq_id is not None and seq_id < 0:
            raise invalid("seq_id", seq_id, "it counts from 1")
        first = self._next if seq_id is None else seq_id
        self._next = max(self._next, first + count)
        return Ticket(first, count, seq_id is not None, self._era)

    @asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for this ticket's turn to send. Raises RequestNotSent when one before it failed."""
        if self._sending is None:
            self._sending = asyncio.Lock()
        async with self._sending:
            if ticket.era != self._era:
                raise RequestNotSent(
                    f"not sent: a request before it was not accepted ({self._failed})",
                    backend=BACKEND,
                    details={"seq_id": ticket.first},
                )
            try:
                if self._newest is not None and self._one_at_a_time():
                    await self._newest.wait()
                yield
            except BaseException as error:
                self._give_back(ticket, error)
                raise

    def under_way(self) -> asyncio.Event:
        """Note that a request was accepted in this turn. To be set when its result is there, or nobody waits."""
        self._newest = asyncio.Event()
        return self._newest

    def _give_back(self, ticket: Ticket, error: BaseException) -> None:
        with self._guard:
            self._era += 1
            self._failed = error if isinstance(error, CrucibleError) else None
            if isinstance(error, CrucibleError):
                error.details.setdefault("seq_id", ticket.first + ticket.accepted)
                error.details.setdefault("accepted", ticket.accepted)
            refused = isinstance(error, CrucibleError) and (
                not isinstance(error, _EFFECT_UNKNOWN) or bool(error.details.get("never_sent"))
            )
            if refused and not ticket.chosen_by_caller:
                self._next = ticket.first + ticket.accepted
            elif not ticket.chosen_by_caller:
                self._next = ticket.first + ticket.count
