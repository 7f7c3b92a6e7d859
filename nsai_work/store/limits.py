"""Limits that all workers share: quotas of tenants, and runs per credential and model."""

from sqlalchemy import delete, insert, select

from crucible.errors import InvalidRequest
from nsai_work.store.database import Tx
from nsai_work.store.records import Limit
from nsai_work.store.schema import limits


def set_tenant_quota(tx: Tx, tenant_id: str, max_running: int | None) -> None:
    """At most so many jobs of a tenant run at once; None lifts the quota."""
    _put(tx, Limit("tenant", tenant_id, "*", max_running))


def set_model_limit(tx: Tx, credential: str, max_running: int | None, *, model: str = "*") -> None:
    """At most so many jobs run at once with a credential, on one model or (``*``) on all together. A credential is
    named as the workers name it; unless they are told otherwise, by the name of its backend."""
    _put(tx, Limit("model", credential, model, max_running))


def _put(tx: Tx, limit: Limit) -> None:
    if limit.max_running is not None and limit.max_running < 0:
        raise InvalidRequest.of("max_running", limit.max_running, "it must be 0 or more, or None for no limit")
    this = (limits.c.scope == limit.scope) & (limits.c.key == limit.key) & (limits.c.model == limit.model)
    tx.connection.execute(delete(limits).where(this))
    if limit.max_running is not None:
        row = {"scope": limit.scope, "key": limit.key, "model": limit.model, "max_running": limit.max_running}
        tx.connection.execute(insert(limits), row)


def shared_limits(tx: Tx) -> list[Limit]:
    """The limits that are set."""
    statement = select(limits).where(limits.c.max_running.is_not(None))
    rows = tx.connection.execute(statement.order_by(limits.c.scope, limits.c.key, limits.c.model))
    return [Limit(row.scope, row.key, row.model, row.max_running) for row in rows]
