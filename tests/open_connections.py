"""The PostgreSQL connections of this process, and the tests that opened them.

The garbage collector reports a connection that was left open, but in any later test. The check at the end of each
test module names the right one.
"""

import os
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Pool, event

_opened_in: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def record_connections() -> None:
    """Record the connections of all engines from now on."""
    event.listen(Pool, "connect", _record)


def close_left_open() -> list[str]:
    """Close the recorded connections that are open. Returns the tests that opened them."""
    left = [connection for connection in list(_opened_in) if not connection.closed]
    for connection in left:
        connection.close()
    return sorted(_opened_in.pop(connection) for connection in left)


def _record(connection: Any, _: object) -> None:
    if hasattr(connection, "pgconn"):
        _opened_in[connection] = os.environ.get("PYTEST_CURRENT_TEST", "a fixture")
