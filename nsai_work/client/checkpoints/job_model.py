"""A training job as a model: the checkpoint of it that is sampled from or downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crucible.errors import InvalidRequest, NotFound
from crucible.training import RunSpec
from nsai_work.journal import CheckpointRecord
from nsai_work.payloads import TrainingStep
from nsai_work.policies import SavedCheckpoint

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import Store

FINAL: Final = "final"
LATEST: Final = "latest"
BEST: Final = "best"
CHOICES: Final = "final, latest, best, the number of a step, or the name of a checkpoint"


@dataclass(frozen=True, slots=True)
class JobModel:
    """A checkpoint of a training job, with the backend that has it and the spec of its run."""

    job_id: str
    backend: str
    spec: RunSpec
    checkpoint: CheckpointRecord

    @property
    def base_model(self) -> str:
        """The base model."""
        return self.spec.base_model

    @property
    def path(self) -> str:
        """The path to sample from: the sampling weights, or the training state where there are none."""
        path = self.checkpoint.sampler_path or self.checkpoint.path
        assert path is not None
        return path


def model_of_job(store: "Store", job: "Job", choice: str = FINAL) -> JobModel:
    """Find a checkpoint of a training job: ``final``, ``latest``, ``best`` by the job's policy, a step's number, or
    a name.

    Raises:
        InvalidRequest: the job trains nothing, or the choice has another form.
        NotFound: there is no such checkpoint; the error lists the steps of those that are kept.
    """
    payload = job.parsed_payload
    if not isinstance(payload, TrainingStep):
        raise InvalidRequest.of("job", job.id, f"it is a job of kind {job.kind}; only training jobs make a model")
    kept = sorted((row for row in store.checkpoints(job.id) if row.kept and row.path), key=lambda row: row.step)
    found = _chosen(kept, payload, choice)
    if found is None:
        steps = ", ".join(str(row.step) for row in kept)
        none = f"it has no checkpoints{'' if job.status.ended else ' yet'}"
        there = f"it has checkpoints of the steps {steps}" if kept else none
        raise NotFound(
            f"checkpoint: job {job.id} ({job.status}) has no checkpoint {choice!r}; {there}",
            details={"job_id": job.id, "checkpoint": choice},
        )
    backends = {run.generation: run.ref.backend for run in store.runs(job.id)}
    return JobModel(job.id, backends[found.generation], payload.run_spec(), found)


def _chosen(kept: Sequence[CheckpointRecord], payload: TrainingStep, choice: str) -> CheckpointRecord | None:
    match choice:
        case "final":
            rows = [row for row in kept if row.final]
        case "latest":
            rows = list(kept)
        case "best":
            saved = [SavedCheckpoint(row.name, row.step, row.metric, row.promoted) for row in kept]
            best = payload.checkpoint_policy.best(saved)
            rows = [row for row in kept if best is not None and row.name == best.name]
        case _ if choice.isascii() and choice.isdigit():
            rows = [row for row in kept if row.step == int(choice[:20])]
        case _:
            rows = [row for row in kept if row.name == choice]
            if not rows:
                raise InvalidRequest.of("checkpoint", choice, f"allowed are {CHOICES}")
    return max(rows, key=lambda row: (row.step, row.generation), default=None)
