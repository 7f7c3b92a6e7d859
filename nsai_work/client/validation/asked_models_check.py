"""The check at submit of the models that an environment asks: that the backend has them."""

from crucible.backend import TrainingBackend
from crucible.errors import CallerError
from nsai_work.errors import InvalidJob
from nsai_work.payloads import EnvironmentSpec


async def check_asked_models(backend: TrainingBackend, field: str, spec: EnvironmentSpec) -> None:
    """Check the models that an environment names; those of other jobs are checked with what is read of these.

    Raises:
        InvalidJob: the backend has no such model.
    """
    named = {name: model for name, model in spec.models.items() if isinstance(model, str)}
    known = (await backend.capabilities()).models if named else ()
    for name, model in named.items():
        if model in known:
            continue
        try:
            sampler = await backend.sampler(model)
        except CallerError as error:
            at = f"{field}.models.{name}"
            raise InvalidJob(f"{at}: {error.message}", details={**error.details, "field": at}) from error
        await sampler.close()
