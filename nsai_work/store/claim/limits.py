"""Limits shared by all workers: quotas of tenants, and running jobs per credential and model."""

from typing import Final, TypeAlias

from sqlalchemy import delete, func, insert, select

from crucible.errors import InvalidRequest
from crucible.values.scalars import printable
from nsai_work.credentials import account_name
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.records import Limit, LimitUse
from nsai_work.store.schema import jobs, limits, status_in

LimitKey: TypeAlias = tuple[str, str, str]
"""Scope, key and model: the primary key of ``nsai_limits``."""

ALL_MODELS: Final = "*"
MAX_RUNNING: Final = 1_000_000
MAX_TENANT_CHARS: Final = 200
MAX_MODEL_BYTES: Final = 1_000
"""With the longest credential this still fits into an index entry of PostgreSQL."""


def tenant_quota(tenant_id: str, max_running: int | None) -> Limit:
    """A limit on the running jobs of a tenant. None removes the quota.

    Raises:
        InvalidRequest: naming ``tenant_id`` or ``max_running``.
    """
    _require(bool(tenant_id.strip()), "tenant_id", tenant_id, "it must not be empty")
    too_long = f"it must not be longer than {MAX_TENANT_CHARS} characters"
    _require(len(tenant_id) <= MAX_TENANT_CHARS, "tenant_id", tenant_id, too_long)
    return Limit("tenant", _printable("tenant_id", tenant_id), ALL_MODELS, _checked(max_running))


def model_limit(credential: str, max_running: int | None, *, model: str = ALL_MODELS) -> Limit:
    """A limit on the running jobs with a credential, on one model or (``*``) on all models. None removes it.

    A credential has the name that the workers' settings give it, by default the name of its backend.

    Raises:
        InvalidRequest: naming ``credential``, ``model`` or ``max_running``.
    """
    try:
        account_name(credential)
    except ValueError as error:
        # it may be a key, so it is not repeated
        raise InvalidRequest(f"credential: {error}", details={"field": "credential"}) from None
    _require(bool(model.strip()), "model", model, "it must not be empty; * means all models together")
    model = _printable("model", model)
    too_long = f"it must not be longer than {MAX_MODEL_BYTES} bytes"
    _require(len(model.encode()) <= MAX_MODEL_BYTES, "model", model, too_long)
    return Limit("model", credential, model, _checked(max_running))


def _checked(max_running: int | None) -> int | None:
    if max_running is not None:
        allowed = f"it must be from 0 to {MAX_RUNNING}, or None for no limit"
        _require(0 <= max_running <= MAX_RUNNING, "max_running", max_running, allowed)
    return max_running


def _printable(field: str, text: str) -> str:
    try:
        return printable(text)
    except ValueError as error:
        raise InvalidRequest.of(field, text, f"it {error}") from None


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise InvalidRequest.of(field, value, allowed)


def set_limit(tx: Tx, limit: Limit) -> LimitUse:
    """Set, replace or remove a limit. Running jobs are not stopped."""
    same = (limits.c.scope == limit.scope) & (limits.c.key == limit.key) & (limits.c.model == limit.model)
    tx.connection.execute(delete(limits).where(same))
    if limit.max_running is not None:
        row = {"scope": limit.scope, "key": limit.key, "model": limit.model, "max_running": limit.max_running}
        tx.connection.execute(insert(limits), row)
    return _use(tx, limit)


def shared_limits(tx: Tx) -> list[Limit]:
    """The limits that are set."""
    statement = select(limits).where(limits.c.max_running.is_not(None), limits.c.scope.in_(("tenant", "model")))
    rows = tx.connection.execute(statement.order_by(limits.c.scope, limits.c.key, limits.c.model))
    return [Limit(row.scope, row.key, row.model, row.max_running) for row in rows]


def limits_in_use(tx: Tx) -> list[LimitUse]:
    """The limits that are set, each with the number of jobs that run under it."""
    return [_use(tx, limit) for limit in shared_limits(tx)]


def _use(tx: Tx, limit: Limit) -> LimitUse:
    return LimitUse(limit, running_under(tx, (limit.scope, limit.key, limit.model)))


def running_under(tx: Tx, key: LimitKey) -> int:
    """The number of running jobs of a tenant, of a credential and model, or of a group, limited or not."""
    scope, name, model = key
    statement = select(func.count()).select_from(jobs).where(status_in(JobStatus.RUNNING))
    if scope == "tenant":
        statement = statement.where(jobs.c.tenant_id == name)
    elif scope == "group":
        statement = statement.where(jobs.c.group_key == name)
    else:
        statement = statement.where(jobs.c.credential == name)
        statement = statement if model == ALL_MODELS else statement.where(jobs.c.model == model)
    return tx.connection.execute(statement).scalar_one()
