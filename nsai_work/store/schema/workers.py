"""Tables of the workers and of their elections."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    String,
    Table,
)

from nsai_work.store.engine.columns import Json, UtcTime
from nsai_work.store.schema.metadata import metadata

workers: Final = Table(
    "nsai_workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(40), nullable=False),
    Column("backends", Json, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("stopped_at", UtcTime),
    Column("priorities", Json),
    Column("seen_every_ms", BigInteger),
    Column("declined", Json),
    Column("job_ids", Json),
    Column("has_presence", Boolean),
)

elections: Final = Table(
    "nsai_elections",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)
