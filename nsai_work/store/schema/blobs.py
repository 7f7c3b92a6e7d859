"""Tables of the blob store: its place, blobs and their pieces, and the jobs that need them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
)

from nsai_work.store.engine.columns import UtcTime
from nsai_work.store.schema.metadata import job_column, metadata, partial_index

blob_place: Final = Table(
    "nsai_blob_place",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
)

blobs: Final = Table(
    "nsai_blobs",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("state", String(10), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("pieces", BigInteger, nullable=False),
    Column("touched_at", UtcTime, nullable=False),
    partial_index("nsai_blobs_stored", "sha256", where="state = 'stored'", unique=True),
    Index("nsai_blobs_by_touch", "touched_at"),
)

blob_pieces: Final = Table(
    "nsai_blob_pieces",
    metadata,
    Column("key", String(32), ForeignKey("nsai_blobs.key", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("key", "number"),
)

job_blobs: Final = Table(
    "nsai_job_blobs",
    metadata,
    job_column(),
    Column("key", String(32), ForeignKey("nsai_blobs.key"), nullable=False),
    PrimaryKeyConstraint("job_seq", "key"),
    Index("nsai_job_blobs_by_key", "key"),
)
