"""Sequence numbers and send order of one run's requests."""

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
    """A reservation of the sequence numbers ``first`` to ``first + count - 1``.

    ``accepted`` counts the requests that the server has accepted. A failed send voids every ticket of its ``era``.
    """

    first: int
    count: int
    chosen_by_caller: bool
    era: int
    accepted: int = 0

    @property
    def seq_ids(self) -> range:
        """The reserved numbers."""
        return range(self.first, self.first + self.count)


class RequestSequencer:
    """Numbers the requests of a run and sends them in call order.

    When the server does not accept a request, the requests queued behind it are not sent (RequestNotSent), and the
    next call reuses the number that the server still expects.

    ``one_at_a_time`` returns whether each request must wait for the result of the one before it. A server that
    keeps no record of sequence numbers may run an optimizer step before the gradients that were sent ahead of it:
    SkyRL 0.3.0 reads its queue in several queries, and swaps two requests that arrive between two of them.

    ``orders`` returns whether the server runs requests by number. There, those whose numbers the caller chose do
    not wait for the acceptance of others: the caller sends a number again that was not accepted. The first request
    of a run, or after an attach, is accepted alone, since a server may take the first that it sees for the next.
    """

    def __init__(
        self,
        next_seq_id: int = 1,
        *,
        one_at_a_time: Callable[[], bool] = lambda: False,
        orders: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lock = threading.Lock()
        self._one_at_a_time = one_at_a_time
        self._orders = orders
        self._newest: asyncio.Event | None = None
        self._next = next_seq_id
        self._era = 0
        self._sending: asyncio.Lock | None = None
        self._failure: CrucibleError | None = None

    @property
    def lock(self) -> threading.Lock:
        """Held while a number is reserved and its request is queued, so that both have the same order."""
        return self._lock

    @property
    def next_seq_id(self) -> int:
        """The first unreserved number."""
        return self._next

    @next_seq_id.setter
    def next_seq_id(self, value: int) -> None:
        if value < 0:
            raise invalid("next_seq_id", value, "it counts from 1")
        self._next = value

    def reserve(self, count: int, seq_id: int | None) -> Ticket:
        """Reserve ``count`` numbers, from ``seq_id`` when the caller chose one. Requires ``lock``."""
        if seq_id is not None and seq_id < 0:
            raise invalid("seq_id", seq_id, "it counts from 1")
        first = self._next if seq_id is None else seq_id
        self._next = max(self._next, first + count)
        return Ticket(first, count, seq_id is not None, self._era)

    def sends_ahead(self, ticket: Ticket) -> bool:
        """Return whether the ticket's requests may be sent before earlier ones are accepted, in any order."""
        return ticket.chosen_by_caller and self._newest is not None and self._orders()

    @asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for the ticket's turn to send. Raises RequestNotSent when an earlier request failed."""
        if self._sending is None:
            self._sending = asyncio.Lock()
        if not self.sends_ahead(ticket):
            async with self._sending:
                # the one before it may have been the first to be accepted
                if not self.sends_ahead(ticket):
                    async with self._in_order(ticket):
                        yield
                    return
        yield

    @asynccontextmanager
    async def _in_order(self, ticket: Ticket) -> AsyncIterator[None]:
        if ticket.era != self._era:
            raise RequestNotSent(
                f"not sent: an earlier request was not accepted ({self._failure})",
                backend=BACKEND,
                details={"seq_id": ticket.first},
            )
        try:
            if self._newest is not None and self._one_at_a_time():
                await self._newest.wait()
            yield
        except BaseException as error:
            self._release(ticket, error)
            raise

    def mark_accepted(self) -> asyncio.Event:
        """Record that this turn's request was accepted. The caller sets the event once its result has arrived or
        is no longer awaited."""
        self._newest = asyncio.Event()
        return self._newest

    def _release(self, ticket: Ticket, error: BaseException) -> None:
        with self._lock:
            self._era += 1
            self._failure = error if isinstance(error, CrucibleError) else None
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
