"""Submitting jobs. ``submit`` is the door: it tries the single statement, and falls back to the general path."""

from collections.abc import Mapping, Sequence

from nsai_work.job import Job
from nsai_work.store.engine.database import Database
from nsai_work.store.records import Submitted
from nsai_work.store.submit import general, one_statement


def submit(database: Database, new_jobs: Sequence[Job], named: Mapping[str, Sequence[str]]) -> list[Submitted]:
    """Store jobs: all of them or none. ``named`` are the keys of the blobs that they name, by job id.

    Raises:
        BlobGone: a blob was pruned; nothing is stored.
        InvalidJob: a job cannot be stored; nothing is.
        StoreUnavailable: the database does not answer.
        StoreFull: no disk space; nothing was written.
    """
    # the first attempt assumes that jobs without an idempotency key are new; if one exists, the database raises a
    # conflict, and the next attempt looks it up
    assume_new = all(job.idempotency_key is None for job in new_jobs)

    def attempt() -> list[Submitted]:
        nonlocal assume_new
        assumed, assume_new = assume_new, False
        if assumed and database.postgres and not named:
            with database.autocommit() as tx:
                submitted = one_statement.submit(tx, new_jobs)
            if submitted is not None:
                return submitted
        with database.transaction() as tx:
            return general.submit(tx, new_jobs, assume_new=assumed, named=named)

    return database.retrying(attempt)
