"""Jobs that every worker has declined: each lacks a backend, a credential, a package or a file."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, func, select, tuple_

from nsai_work.store.damaged import priority_of
from nsai_work.store.engine.database import Tx
from nsai_work.store.records import OutcomeKind, WorkerRow
from nsai_work.store.rows import failure_of
from nsai_work.store.schema import attempts, lane_backends

MAX_SHOWN: Final = 5
MAX_REASON_LENGTH: Final = 200


def declined_by_all(tx: Tx, rows: Sequence[Row[Any]], workers: Sequence[WorkerRow]) -> dict[int, str]:
    """The reasons why none of the present workers can run these ready jobs, by seq. A job that some worker could
    run, or that no worker is there for, is left out."""
    if not workers or not rows:
        return {}
    backends = backends_of_lanes(tx, {row.lane_id for row in rows})
    declined = _declined_attempts(tx, [row.seq for row in rows], [worker.id for worker in workers])
    reasons: dict[int, str] = {}
    for row in rows:
        answers = [
            (worker.host, declined.get((row.seq, worker.id)) or _lacks_backends(worker, backends[row.lane_id]))
            for worker in workers
            if _is_there_for(worker, row)
        ]
        if answers and all(reason is not None for _, reason in answers):
            reasons[row.seq] = _text([f"{host}: {reason}" for host, reason in answers])
    return reasons


def _is_there_for(worker: WorkerRow, row: Row[Any]) -> bool:
    of_priority = worker.priorities is None or str(priority_of(row.rank)) in worker.priorities
    return of_priority and (worker.job_ids is None or row.id in worker.job_ids)


def backends_of_lanes(tx: Tx, lane_ids: set[int]) -> dict[int, list[str]]:
    """The backends that the jobs of each lane may run on, in order of preference."""
    statement = (
        select(lane_backends.c.lane_id, lane_backends.c.backend)
        .where(tx.one_of(lane_backends.c.lane_id, lane_ids))
        .order_by(lane_backends.c.lane_id, lane_backends.c.preference)
    )
    found: dict[int, list[str]] = {lane_id: [] for lane_id in lane_ids}
    for lane_id, backend in tx.connection.execute(statement):
        found[lane_id].append(backend)
    return found


def _declined_attempts(tx: Tx, seqs: Sequence[int], worker_ids: Sequence[str]) -> Mapping[tuple[int, str], str]:
    """The reasons of the workers whose latest attempt at a job was declined, by job and worker."""
    key = (attempts.c.job_seq, attempts.c.worker_id)
    latest = (
        select(attempts.c.job_seq, func.max(attempts.c.fence))
        .where(tx.one_of(attempts.c.job_seq, seqs), tx.one_of(attempts.c.worker_id, worker_ids))
        .group_by(*key)
    )
    statement = select(*key, attempts.c.failure).where(
        tuple_(attempts.c.job_seq, attempts.c.fence).in_(latest), attempts.c.outcome == str(OutcomeKind.DECLINED)
    )
    found: dict[tuple[int, str], str] = {}
    for seq, worker_id, value in tx.connection.execute(statement):
        failure = failure_of(value)
        found[seq, worker_id] = failure.message if failure is not None else "declined"
    return found


def _lacks_backends(worker: WorkerRow, backends: Sequence[str]) -> str | None:
    """The reason, if the worker can use none of these backends."""
    declined = worker.declined or {}
    reasons = [
        declined.get(name) or f"it has no backend {name!r}"
        for name in backends
        if name in declined or name not in worker.backends
    ]
    return "; ".join(reasons) if reasons and len(reasons) == len(backends) else None


def _text(reasons: Sequence[str]) -> str:
    different = list(dict.fromkeys(reasons))
    shown = [
        text if len(text) <= MAX_REASON_LENGTH else f"{text[: MAX_REASON_LENGTH - 3]}..."
        for text in different[:MAX_SHOWN]
    ]
    more = f"; and {len(different) - MAX_SHOWN} more" if len(different) > MAX_SHOWN else ""
    return f"no worker can run it: {'; '.join(shown)}{more}"
