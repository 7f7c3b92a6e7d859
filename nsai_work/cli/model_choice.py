"""The model of a command: a name at a backend, or a job, whose checkpoint and backend are looked up."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.stdout import write_line
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
        metavar="final|latest|best|STEP|NAME",
        help="Checkpoint of the job: its last state, the newest save, the best by its metric, that of a step, or by"
        " its name. [default: final]",
    ),
]


def find_job_model(name: str, choice: str | None = None) -> "JobModel | None":
    """Return the checkpoint of the job that ``name`` names by its id or by a part of it, with ``:CHECKPOINT``
    behind it or not; None if there is no such job, so that it is a model's name.

    Raises:
        InvalidRequest: the name is a part of several ids, the job trains nothing, or the choice is invalid.
        NotFound: the job has no such checkpoint.
    """
    settings = load_settings()
    asked, colon, own_choice = name.partition(":")
    if "/" in name or ":" in own_choice or missing_store(settings):
        return None
    from nsai_work.client.checkpoints.job_model import FINAL, model_of_job

    try:
        store = get_store(settings)
        # any other name is that of a model, unless a job has exactly this id
        job = find_job(store, asked) if re.fullmatch(r"[0-9a-f-]{4,36}", asked) else store.get(asked)
    except JobNotFound:
        return None
    if colon and choice is not None:
        raise InvalidRequest.of("--checkpoint", choice, f"--model names {own_choice!r}; leave one of them out")
    return model_of_job(store, job, own_choice if colon else choice or FINAL)


def chosen_model(model: str | None, backend: str | None, choice: str | None) -> tuple[str, str | None]:
    """Return the backend and the model there that a command's options name. A training state that the service does
    not sample from is saved for sampling first, which a line on stderr says.

    Raises:
        InvalidRequest: they contradict each other, or as ``find_job_model`` and ``sampling_weights``.
        NotFound: as ``find_job_model``.
        CrucibleError: the service failed.
    """
    found = None if model is None else find_job_model(model, choice)
    if found is None:
        if choice is not None:
            raise InvalidRequest.of("--checkpoint", choice, "it chooses a checkpoint of a job; --model names none")
        return backend or DEFAULT_BACKEND, model
    if backend not in (None, found.backend):
        raise InvalidRequest.of("--backend", backend, f"job {found.job_id} has its model at {found.backend!r}")
    return found.backend, found.checkpoint.sampler_path or _saved_for_sampling(found)


def _saved_for_sampling(model: "JobModel") -> str:
    from crucible.backend import TrainingBackend
    from crucible.registry import load_backend
    from nsai_work.client.checkpoints.sampling_weights import SamplingWeights, sampling_weights
    from nsai_work.concurrency.coroutine_runner import run_blocking

    async def weights() -> SamplingWeights:
        backend = load_backend(model.backend)
        assert isinstance(backend, TrainingBackend)
        async with backend:
            return await sampling_weights(get_store(load_settings()), backend, model)

    found = run_blocking(weights())
    if found.saved:
        name, step = model.checkpoint.name, model.checkpoint.step
        write_line(
            f"checkpoint {name} had only the training state of step {step}: loaded, and saved for sampling as "
            f"{found.path}, which is used from now on",
            err=True,
        )
    return found.path
