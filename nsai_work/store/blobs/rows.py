"""Operations on the rows of blobs.

A blob has a key of its own for each time that it is written, so that deleting one never touches the pieces of
another, whatever its content. At most one of a content is ``stored``; others are ``writing``, ``deleting``, or
found ``damaged`` when they were read: the next submit of the content writes it again, also for other jobs.
"""

import secrets
from collections.abc import Iterable, Mapping
from enum import StrEnum

from sqlalchemy import and_, delete, func, insert, select, update

from nsai_work.blobs.place import BlobGone
from nsai_work.blobs.shelf import StoredBlob
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import blob_pieces, blob_place, blobs, job_blobs, jobs


class BlobState(StrEnum):
    """The state of a blob's row."""

    WRITING = "writing"
    STORED = "stored"
    DAMAGED = "damaged"
    DELETING = "deleting"


def place(tx: Tx) -> str | None:
    """The recorded place; None before its first use."""
    found: str | None = tx.connection.execute(select(blob_place.c.name)).scalar()
    return found


def take_place(tx: Tx, name: str) -> str:
    """The place of this database's blobs: ``name``, if none was recorded. Of two first uses one gets a conflict."""
    found = place(tx)
    if found is None:
        tx.connection.execute(insert(blob_place).values(id=1, name=name))
    return found or name


def touch(tx: Tx, sha256: str) -> str | None:
    """The key of the stored blob with a content, touched now; None without one."""
    stored = (blobs.c.sha256 == sha256) & (blobs.c.state == BlobState.STORED)
    touched = update(blobs).where(stored).values(touched_at=tx.now).returning(blobs.c.key)
    found: str | None = tx.connection.execute(touched).scalar()
    return found


def begin(tx: Tx, sha256: str) -> str:
    """Add the row of a blob that is being written, and return its key."""
    key = secrets.token_hex(16)
    row = {"key": key, "sha256": sha256, "state": str(BlobState.WRITING), "size": 0, "pieces": 0}
    tx.connection.execute(insert(blobs).values(**row, touched_at=tx.now))
    return key


def renew(tx: Tx, key: str) -> None:
    """Touch a blob that is being written. Raises BlobGone."""
    _require_writing(tx, key)
    tx.connection.execute(update(blobs).where(blobs.c.key == key).values(touched_at=tx.now))


def complete(tx: Tx, key: str, size: int, pieces: int) -> str:
    """Mark a written blob as stored, and return its key, or that of another stored blob of its content. Of two at
    the same time, one gets a conflict. Raises BlobGone."""
    other = touch(tx, _require_writing(tx, key))
    if other is not None:
        return other
    values = {"state": str(BlobState.STORED), "size": size, "pieces": pieces, "touched_at": tx.now}
    tx.connection.execute(update(blobs).where(blobs.c.key == key).values(**values))
    return key


def _require_writing(tx: Tx, key: str) -> str:
    """Lock the row of a blob that is being written, and return its digest. Raises BlobGone."""
    writing = (blobs.c.key == key) & (blobs.c.state == BlobState.WRITING)
    sha256: str | None = tx.connection.execute(select(blobs.c.sha256).where(writing).with_for_update()).scalar()
    if sha256 is None:
        raise BlobGone
    return sha256


def mark_damaged(tx: Tx, key: str) -> None:
    """Record that a stored blob is not the content that was stored."""
    stored = (blobs.c.key == key) & (blobs.c.state == BlobState.STORED)
    tx.connection.execute(update(blobs).where(stored).values(state=str(BlobState.DAMAGED)))


def discard(tx: Tx, key: str) -> None:
    """Delete the row of a blob, with the pieces in the database."""
    tx.connection.execute(delete(blobs).where(blobs.c.key == key))


def name_blobs(tx: Tx, seqs: Mapping[str, int], named: Mapping[str, Iterable[str]]) -> None:
    """Record which blobs new jobs name; ``seqs`` are those of the jobs that are stored in this transaction. The
    rows of the blobs are locked against pruning until its end.

    Raises:
        BlobGone: one of them is no longer stored.
    """
    pairs = {(seqs[job_id], key) for job_id, keys in named.items() if job_id in seqs for key in keys}
    if not pairs:
        return
    keys = {key for _, key in pairs}
    stored = blobs.c.key.in_(sorted(keys)) & (blobs.c.state == BlobState.STORED)
    statement = select(blobs.c.key).where(stored).order_by(blobs.c.key).with_for_update(read=True)
    if len(tx.connection.execute(statement).all()) < len(keys):
        raise BlobGone
    tx.connection.execute(insert(job_blobs), [{"job_seq": seq, "key": key} for seq, key in sorted(pairs)])


def of_job(tx: Tx, job_id: str) -> list[StoredBlob]:
    """The blobs that a job names; in the place of a damaged one another of its content, if there is one."""
    whole = blobs.alias()
    is_whole = and_(whole.c.sha256 == blobs.c.sha256, whole.c.state == BlobState.STORED)
    again = and_(blobs.c.state == BlobState.DAMAGED, is_whole)
    columns = [
        func.coalesce(whole.c[name], blobs.c[name]).label(name) for name in ("key", "sha256", "size", "pieces")
    ]
    named = (
        select(*columns)
        .select_from(blobs)
        .join(job_blobs, job_blobs.c.key == blobs.c.key)
        .join(jobs, jobs.c.seq == job_blobs.c.job_seq)
        .outerjoin(whole, again)
    )
    rows = tx.connection.execute(named.where(jobs.c.id == job_id))
    return [StoredBlob(row.key, row.sha256, row.size, row.pieces) for row in rows]


def stored_bytes(tx: Tx) -> int:
    """The size of all files that are kept."""
    size: int | None = tx.connection.execute(select(func.sum(blobs.c.size))).scalar()
    return int(size or 0)


def write_piece(tx: Tx, key: str, number: int, piece: bytes) -> None:
    """Add the row of a piece, or replace it: an operation whose commit was not confirmed runs again.

    Raises:
        BlobGone: the blob was pruned.
    """
    _require_writing(tx, key)
    row = (blob_pieces.c.key == key) & (blob_pieces.c.number == number)
    tx.connection.execute(delete(blob_pieces).where(row))
    tx.connection.execute(insert(blob_pieces).values(key=key, number=number, content=piece))


def read_piece(tx: Tx, key: str, number: int) -> bytes | None:
    """A piece; None without a row."""
    row = (blob_pieces.c.key == key) & (blob_pieces.c.number == number)
    found = tx.connection.execute(select(blob_pieces.c.content).where(row)).scalar()
    return None if found is None else bytes(found)


def delete_pieces(tx: Tx, key: str) -> None:
    """Delete all rows of a blob's pieces."""
    tx.connection.execute(delete(blob_pieces).where(blob_pieces.c.key == key))
