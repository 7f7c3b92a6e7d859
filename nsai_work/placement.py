"""On which backend a job may run, and which model of it: pure functions of the job."""

from collections.abc import Mapping

from nsai_work.errors import InvalidJob
from nsai_work.job import Job


def candidate_backends(job: Job) -> tuple[str, ...]:
    """The backends a job may run on, best first.

    The preferred ones in their order, then ``backend``, then the rest of the required ones. ``required_backends``
    rules out all others, ``excluded_backends`` those it names.

    Raises:
        InvalidJob: none is left.
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
            f"constraints: they leave no backend for this job (backend is {job.backend!r}); "
            "name one in required_backends or preferred_backends that is not excluded",
            details={"fields": ["constraints", "backend"]},
        )
    return allowed


def model_of(job: Job) -> str:
    """The model that the job uses at its backend, for shared limits; empty when it names none."""
    base = job.payload.get("base_model")
    if isinstance(base, str):
        return base
    prompt = job.payload.get("prompt")
    options = prompt.get("options") if isinstance(prompt, Mapping) else None
    model = options.get("model") if isinstance(options, Mapping) else None
    return model if isinstance(model, str) else ""
