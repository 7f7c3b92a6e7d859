"""Group commit: operations that wait at the same moment share a transaction.

One that fails does not spoil the others: they are run again without it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

from crucible.errors import CrucibleError
from nsai_work.errors import StoreUnavailable
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.db_errors import DbErrorKind, as_work_error, classify
from nsai_work.store.engine.listener import ListeningConnection

GROUP_TRIES: Final = 3


@dataclass(slots=True, eq=False)
class PendingOperation:
    """One caller's operation. ``many`` operations of the same function are merged into one call. ``single`` is a
    short cut for PostgreSQL that needs one statement; where it answers None, ``call`` is made. ``patience_s``
    counts from ``since``, when it came in (in seconds of the clock's monotonic time)."""

    call: Callable[..., Any]
    item: Any
    many: bool
    since: float
    patience_s: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    single: Callable[[Tx], Any] | None = None
    answer: Any = None
    error: BaseException | None = None


class _Failed(Exception):
    """Inside the group's transaction: this operation failed, so the transaction must be undone."""

    def __init__(self, waiting: PendingOperation, error: Exception) -> None:
        super().__init__(str(error))
        self.waiting = waiting
        self.error = error


def commit(line: ListeningConnection, group: Sequence[PendingOperation], retry_every_s: float) -> None:
    """Run and commit a group; afterwards each has its answer or its error."""
    together, alone = list(group), list[PendingOperation]()
    conflicts = 0
    while together:
        try:
            _attempt(line, together)
            break
        except _Failed as failed:
            together.remove(failed.waiting)
            alone.append(failed.waiting)
        except DBAPIError as error:
            fault = classify(error)
            conflicts += fault is DbErrorKind.CONFLICT
            if fault is DbErrorKind.AWAY:
                together = _still_patient(together, error, line.database)
                time.sleep(retry_every_s if together else 0)
            elif fault is DbErrorKind.CONFLICT and conflicts < GROUP_TRIES:
                time.sleep(0.003 * conflicts)
            else:
                alone += together
                break
        except StoreUnavailable as error:
            # from the set-up of the tables
            for one in together:
                one.error = error
            break
    for one in alone:
        _run_alone(line, one)


def _attempt(line: ListeningConnection, group: Sequence[PendingOperation]) -> None:
    if len(group) == 1 and _run_single(line, group[0]):
        return
    with line.transaction() as tx:
        merged: dict[Any, list[PendingOperation]] = {}
        for one in group:
            if one.many:
                merged.setdefault(one.call, []).append(one)
            else:
                _run(tx, one)
        for call, ones in merged.items():
            _run_many(tx, call, ones)


def _run_single(line: ListeningConnection, one: PendingOperation) -> bool:
    """Whether the short cut has answered."""
    if one.single is None or not line.database.postgres:
        return False
    with line.transaction(single=True) as tx:
        one.answer = one.single(tx)
    return one.answer is not None


def _run(tx: Tx, one: PendingOperation) -> None:
    try:
        one.answer = one.call(tx)
    except DBAPIError as error:
        if classify(error) is DbErrorKind.BUG:
            raise _Failed(one, error) from error
        raise
    except Exception as error:
        raise _Failed(one, error) from error


def _run_many(tx: Tx, call: Callable[..., Any], ones: Sequence[PendingOperation]) -> None:
    try:
        answers = call(tx, [one.item for one in ones])
    except DBAPIError:
        raise
    except Exception as error:
        # which of them it was is not known: the first is run alone, and the rest tried again
        raise _Failed(ones[0], error) from error
    for one, answer in zip(ones, answers, strict=True):
        one.answer, one.error = (None, answer) if isinstance(answer, CrucibleError) else (answer, None)


def _run_alone(line: ListeningConnection, one: PendingOperation) -> None:
    try:
        line.database.retrying(lambda: _attempt(line, [one]))
    except _Failed as failed:
        one.error = failed.error
    except Exception as error:
        one.error = error


def _still_patient(
    group: Sequence[PendingOperation], error: DBAPIError, database: Database
) -> list[PendingOperation]:
    now = database.clock.monotonic()
    for one in group:
        if one.since + one.patience_s <= now:
            one.error = as_work_error(DbErrorKind.AWAY, error, database.where)
    return [one for one in group if one.error is None]
