"""The run journal of a training job: its records, and the protocol that the store implements."""

from nsai_work.journal.protocol import Journal
from nsai_work.journal.records import (
    AnswerRow,
    CheckpointRecord,
    CheckpointStatus,
    EvaluationRecord,
    JournalSnapshot,
    RemoteRun,
    ResumeMode,
    SinkMark,
    SinkState,
    StepRecord,
)

__all__ = [
    "AnswerRow",
    "CheckpointRecord",
    "CheckpointStatus",
    "EvaluationRecord",
    "Journal",
    "JournalSnapshot",
    "RemoteRun",
    "ResumeMode",
    "SinkMark",
    "SinkState",
    "StepRecord",
]
