"""Policies: the sampling weights that rollouts come from."""

from sqlalchemy import ColumnElement, delete, select, update

from nsai_work.journal.rollouts import PolicyRecord
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row
from nsai_work.store.journal.steps import close_fenced_intent
from nsai_work.store.records import Claim
from nsai_work.store.schema import policies


def job_policies(tx: Tx, claim: Claim) -> list[PolicyRecord]:
    """The sampling weights of a job that are not deleted, by generation and step."""
    fence(tx, claim)
    order = (policies.c.generation, policies.c.step)
    rows = tx.connection.execute(select(policies).where(policies.c.job_seq == claim.seq).order_by(*order))
    return [
        read_row(
            policies, row, PolicyRecord, {name: value for name, value in row._mapping.items() if name != "job_seq"}
        )
        for row in rows
    ]


def keep_policy(tx: Tx, claim: Claim, policy: PolicyRecord, last_seq_id: int) -> None:
    """Record sampling weights, and close the intent of their save."""
    fence(tx, claim)
    insert_new(tx, policies, [{**policy.model_dump(mode="json"), "job_seq": claim.seq}])
    close_fenced_intent(tx, claim, policy.generation, last_seq_id)


def open_policy(tx: Tx, claim: Claim, policy: PolicyRecord) -> None:
    """Record the reference of the sampler that was opened on weights."""
    fence(tx, claim)
    ref = policy.model_dump(mode="json")["ref"]
    tx.connection.execute(update(policies).where(_of(claim, policy)).values(ref=ref))


def drop_policy(tx: Tx, claim: Claim, policy: PolicyRecord) -> None:
    """Forget sampling weights."""
    fence(tx, claim)
    tx.connection.execute(delete(policies).where(_of(claim, policy)))


def _of(claim: Claim, policy: PolicyRecord) -> ColumnElement[bool]:
    same = (policies.c.step == policy.step) & (policies.c.generation == policy.generation)
    return (policies.c.job_seq == claim.seq) & same
