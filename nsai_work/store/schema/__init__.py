"""The tables. The migrations create them; ``tests/integration/store/test_migrations.py`` holds the two equal.

``nsai_jobs`` has the mutable state (small rows), ``nsai_job_specs`` the immutable specs. Ready jobs are queued in
*lanes*: all jobs of a lane have equal conditions (tenant, priority, kind, backends, model, concurrency group). A
claim reads the few lanes, and locks jobs at the front of a lane by index, however many jobs follow.
"""

from nsai_work.store.schema.alerts import alert_marks, alerts_sent
from nsai_work.store.schema.blobs import blob_pieces, blob_place, blobs, job_blobs
from nsai_work.store.schema.journal import (
    answers,
    checkpoints,
    evaluations,
    intents,
    references,
    runs,
    sink_marks,
    steps,
)
from nsai_work.store.schema.metadata import metadata
from nsai_work.store.schema.queue import (
    NO_STEP,
    STEP,
    attempts,
    dependencies,
    events,
    job_numbers,
    jobs,
    lane_backends,
    lanes,
    limits,
    shares,
    specs,
    status_in,
    tags,
    turns,
)
from nsai_work.store.schema.rollouts import (
    evaluation_rollouts,
    evaluation_turns,
    policies,
    rollout_turns,
    rollouts,
)
from nsai_work.store.schema.workers import elections, workers

__all__ = [
    "NO_STEP",
    "STEP",
    "alert_marks",
    "alerts_sent",
    "answers",
    "attempts",
    "blob_pieces",
    "blob_place",
    "blobs",
    "checkpoints",
    "dependencies",
    "elections",
    "evaluation_rollouts",
    "evaluation_turns",
    "evaluations",
    "events",
    "intents",
    "job_blobs",
    "job_numbers",
    "jobs",
    "lane_backends",
    "lanes",
    "limits",
    "metadata",
    "policies",
    "references",
    "rollout_turns",
    "rollouts",
    "runs",
    "shares",
    "sink_marks",
    "specs",
    "status_in",
    "steps",
    "tags",
    "turns",
    "workers",
]
