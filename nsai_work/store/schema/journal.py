"""Tables of the journal: marks of sinks, answers, runs, steps, evaluations, references, intents, checkpoints."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
)

from nsai_work.store.engine.columns import Json, LossyText, UtcTime
from nsai_work.store.schema.metadata import job_column, metadata

runs: Final = Table(
    "nsai_runs",
    metadata,
    job_column(),
    Column("generation", Integer, nullable=False),
    Column("ref", Json, nullable=False),
    Column("from_step", BigInteger, nullable=False),
    Column("first_seq_id", BigInteger, nullable=False),
    Column("resume", String(20), nullable=False),
    Column("restored_from", String),
    Column("end_reason", LossyText),
    Column("started_at", UtcTime, nullable=False),
    Column("lost_steps", BigInteger),
    Column("restart_reason", LossyText),
    PrimaryKeyConstraint("job_seq", "generation"),
)

steps: Final = Table(
    "nsai_steps",
    metadata,
    job_column(),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("superseded_by", Integer),
    Column("epoch", Integer, nullable=False),
    Column("loss", Float(53), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("learning_rate", Float(53), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("job_seq", "step", "generation"),
)

evaluations: Final = Table(
    "nsai_evaluations",
    metadata,
    job_column(),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("superseded_by", Integer),
    Column("metrics", Json, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("job_seq", "step", "generation"),
)

references: Final = Table(
    "nsai_references",
    metadata,
    job_column(),
    Column("number", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("job_seq", "number"),
)

answers: Final = Table(
    "nsai_answers",
    metadata,
    job_column(),
    Column("line", BigInteger, nullable=False),
    Column("prompt_sha256", String(64), nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("job_seq", "line"),
)

sink_marks: Final = Table(
    "nsai_sink_marks",
    metadata,
    job_column(),
    Column("sink", String(200), nullable=False),
    Column("segment", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("from_step", BigInteger, nullable=False),
    Column("resume", String(20), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("evaluated", BigInteger, nullable=False),
    PrimaryKeyConstraint("job_seq", "sink"),
)

intents: Final = Table(
    "nsai_intents",
    metadata,
    job_column(),
    Column("generation", Integer, nullable=False),
    Column("last_seq_id", BigInteger, nullable=False),
    Column("intent", Json, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("intended_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("job_seq", "generation", "last_seq_id"),
)

checkpoints: Final = Table(
    "nsai_checkpoints",
    metadata,
    job_column(),
    Column("name", String, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("status", String(10), nullable=False),
    Column("path", String),
    Column("sampler_path", String),
    Column("metric", Float(53)),
    Column("promoted", Boolean, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("size_bytes", BigInteger),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("note", LossyText),
    PrimaryKeyConstraint("job_seq", "name"),
    UniqueConstraint("job_seq", "generation", "step", "name", name="nsai_checkpoints_order"),
)
