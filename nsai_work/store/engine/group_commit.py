"""Group commit: operations that are pending at the same moment share a transaction.

An operation that fails is taken out of its group, and the others run again without it.
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
from nsai_work.store.engine.db_errors import DbErrorKind, classify, to_work_error
from nsai_work.store.engine.listener import ListeningConnection

GROUP_TRIES: Final = 3


@dataclass(slots=True, eq=False)
class PendingOperation:
    """An operation of one caller, pending until a group commit.

    ``call`` runs it in the group's transaction. With ``merged``, all pending operations of the same function are
    one call over their items. A claim has a ``standalone`` form too, which opens its own transactions; it is used
    if the claim is alone in its group. ``patience_s`` counts from ``since``, in seconds of the monotonic clock.
    """

    call: Callable[..., Any]
    item: Any
    merged: bool
    since: float
    patience_s: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    standalone: Callable[[ListeningConnection], Any] | None = None
    result: Any = None
    error: BaseException | None = None

    @property
    def is_claim(self) -> bool:
        """The operation claims jobs."""
        return self.standalone is not None


class _OperationFailed(Exception):
    """An operation of the group failed, so the group's transaction must be rolled back."""

    def __init__(self, operation: PendingOperation, error: Exception) -> None:
        super().__init__(str(error))
        self.operation = operation
        self.error = error


def commit(connection: ListeningConnection, group: Sequence[PendingOperation], retry_every_s: float) -> None:
    """Run and commit a group; afterwards each operation has its result or its error."""
    together, separately = list(group), list[PendingOperation]()
    conflicts = 0
    while together:
        try:
            _attempt(connection, together)
            break
        except _OperationFailed as failed:
            together.remove(failed.operation)
            separately.append(failed.operation)
        except DBAPIError as error:
            kind = classify(error)
            conflicts += kind is DbErrorKind.CONFLICT
            if kind in (DbErrorKind.UNAVAILABLE, DbErrorKind.CONFLICT):
                # SQLite waits for its write lock before it reports a conflict
                together = _drop_expired(together, error, connection.database)
            if kind is DbErrorKind.UNAVAILABLE:
                time.sleep(retry_every_s if together else 0)
            elif kind is DbErrorKind.CONFLICT and conflicts < GROUP_TRIES:
                time.sleep(0.003 * conflicts)
            else:
                separately += together
                break
        except StoreUnavailable as error:
            # raised by the check of the tables' version
            for operation in together:
                operation.error = error
            break
    for operation in separately:
        _run_separately(connection, operation)


def _attempt(connection: ListeningConnection, group: Sequence[PendingOperation]) -> None:
    if len(group) == 1 and group[0].standalone is not None:
        _run(group[0], group[0].standalone, connection)
        return
    with connection.transaction() as tx:
        merged: dict[Any, list[PendingOperation]] = {}
        for operation in group:
            if operation.merged:
                merged.setdefault(operation.call, []).append(operation)
            else:
                _run(operation, operation.call, tx)
        for call, operations in merged.items():
            _run_merged(tx, call, operations)


def _run(operation: PendingOperation, call: Callable[..., Any], argument: Tx | ListeningConnection) -> None:
    try:
        operation.result = call(argument)
    except DBAPIError as error:
        if classify(error) is DbErrorKind.BUG:
            raise _OperationFailed(operation, error) from error
        raise
    except Exception as error:
        raise _OperationFailed(operation, error) from error


def _run_merged(tx: Tx, call: Callable[..., Any], operations: Sequence[PendingOperation]) -> None:
    try:
        results = call(tx, [operation.item for operation in operations])
    except DBAPIError:
        raise
    except Exception as error:
        # the culprit is not known: run the first one separately, and the others again
        raise _OperationFailed(operations[0], error) from error
    for operation, result in zip(operations, results, strict=True):
        failed = isinstance(result, CrucibleError)
        operation.result, operation.error = (None, result) if failed else (result, None)


def _run_separately(connection: ListeningConnection, operation: PendingOperation) -> None:
    try:
        connection.database.retrying(lambda: _attempt(connection, [operation]))
    except _OperationFailed as failed:
        operation.error = failed.error
    except Exception as error:
        operation.error = error


def _drop_expired(
    group: Sequence[PendingOperation], error: DBAPIError, database: Database
) -> list[PendingOperation]:
    """Fail the operations whose patience is over. Returns the others."""
    now = database.clock.monotonic()
    for operation in group:
        if operation.since + operation.patience_s <= now:
            operation.error = to_work_error(DbErrorKind.UNAVAILABLE, error, database.where)
    return [operation for operation in group if operation.error is None]
