"""Placement of a job: its candidate backends and its model, as pure functions of the job."""

from collections.abc import Mapping

from nsai_work.errors import InvalidJob
from nsai_work.job import Job


def candidate_backends(job: Job) -> tuple[str, ...]:
    """Return the backends a job may run on, best first.

    The order is ``preferred_backends``, ``backend``, ``required_backends``. Only ``required_backends`` are allowed,
    if there are any; ``excluded_backends`` are not.

    Raises:
        InvalidJob: no backend is allowed.
    """
    constraints = job.constraints
    ordered = dict.fromkeys((*constraints.preferred_backends, job.backend, *constraints.required_backends))
    allowed = tuple(
        name
        for name in ordered
        if name not in constraints.excluded_backends
        and (not constraints.required_backends or name in constraints.required_backends)
    )
    if not allowed:
        raise InvalidJob(
            f"constraints: no backend is left for this job (backend is {job.backend!r}); "
            "add a backend to required_backends or preferred_backends that is not excluded",
            details={"fields": ["constraints", "backend"]},
        )
    return allowed


def model_of(job: Job) -> str:
    """Return the model that the job uses, for model-specific limits; empty if it names none."""
    base = job.payload.get("base_model")
    if isinstance(base, str):
        return base
    prompt = job.payload.get("prompt")
    options = prompt.get("options") if isinstance(prompt, Mapping) else None
    model = options.get("model") if isinstance(options, Mapping) else None
    return model if isinstance(model, str) else ""
