"""The model of a command: a name at a backend, or a job, whose checkpoint and backend are looked up."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.parameters import DEFAULT_BACKEND
from nsai_work.cli.store_access import get_store, load_settings, missing_store
from nsai_work.errors import JobNotFound

if TYPE_CHECKING:
    from nsai_work.client.checkpoints.job_model import JobModel

BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help=f"Name of the backend, as listed by nsai-work backends. [default: the job's, else {DEFAULT_BACKEND}]",
    ),
]
CheckpointChoice = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="final|latest|best|STEP",
        help="Checkpoint of the job: its last state, the newest save, the best by its metric, or that of a step."
        " [default: final]",
    ),
]


def find_job_model(name: str, choice: str | None = None) -> "JobModel | None":
    """Return the checkpoint of the job that ``name`` names by its id, or by a part of it; None if there is no such
    job, so that it is a model's name.

    Raises:
        InvalidRequest: the name is a part of several ids, the job trains nothing, or the choice is invalid.
        NotFound: the job has no such checkpoint.
    """
    settings = load_settings()
    if "/" in name or ":" in name or missing_store(settings):
        return None
    from nsai_work.client.checkpoints.job_model import FINAL, model_of_job

    try:
        store = get_store(settings)
        # any other name is that of a model, unless a job has exactly this id
        job = find_job(store, name) if re.fullmatch(r"[0-9a-f-]{4,36}", name) else store.get(name)
    except JobNotFound:
        return None
    return model_of_job(store, job, choice or FINAL)


def chosen_model(model: str | None, backend: str | None, choice: str | None) -> tuple[str, str | None]:
    """Return the backend and the model there that a command's options name.

    Raises:
        InvalidRequest: they contradict each other, or as ``find_job_model``.
        NotFound: as ``find_job_model``.
    """
    found = None if model is None else find_job_model(model, choice)
    if found is None:
        if choice is not None:
            raise InvalidRequest.of("--checkpoint", choice, "it chooses a checkpoint of a job; --model names none")
        return backend or DEFAULT_BACKEND, model
    if backend not in (None, found.backend):
        raise InvalidRequest.of("--backend", backend, f"job {found.job_id} has its model at {found.backend!r}")
    return found.backend, found.path
