"""What a name given as a model means: a base model, a checkpoint's path, or a run's newest weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from backends.tinkex.types.training_run import TrainingRun
from crucible.errors import InvalidRequest, NotFound, RunGone, Unsupported

if TYPE_CHECKING:
    from backends.tinkex.client.rest import RestClient

_NAMES: Final = ("name", "run_name", "job_id")
_RUNS_SEARCHED: Final = 200
_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What to sample from. ``path`` is None for a base model."""

    name: str
    base_model: str
    path: str | None = None


async def find_model(rest: "RestClient", name: str, base_models: Sequence[str]) -> ModelSource:
    """What ``name`` means.

    A run is named by its id, or by ``name``, ``run_name`` or ``job_id`` of its user metadata; its newest weights
    for sampling are meant.

    Raises:
        InvalidRequest: it means nothing here; the error says what is allowed.
    """
    if name in base_models:
        return ModelSource(name, name)
    if "://" in name:
        return await _of_path(rest, name, name)
    run = await _run_named(rest, name)
    if run is None:
        raise invalid(
            "options.model",
            name,
            f"allowed are the base models {', '.join(base_models)}, tinker://RUN/sampler_weights/NAME, "
            "and the id or name of a run",
        )
    path = await _newest_weights(rest, run)
    if path is None:
        raise invalid("options.model", name, "the run has no weights for sampling; save some first")
    return await _of_path(rest, path, name)


async def _of_path(rest: "RestClient", path: str, name: str) -> ModelSource:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path, field="options.model")
    try:
        info = await rest.get_weights_info_by_tinker_path(parsed.tinker_path)
        base_model = info.base_model
    except (NotFound, RunGone) as error:
        raise InvalidRequest.of("options.model", name, error.message, backend=BACKEND) from error
    except Unsupported:
        base_model = (await rest.get_training_run(parsed.training_run_id)).base_model
    return ModelSource(name, base_model, parsed.tinker_path)


async def _run_named(rest: "RestClient", name: str) -> TrainingRun | None:
    try:
        return await rest.get_training_run(name)
    except (NotFound, RunGone, Unsupported, InvalidRequest):
        pass
    for offset in range(0, _RUNS_SEARCHED, _PAGE):
        try:
            runs = (await rest.list_training_runs(limit=_PAGE, offset=offset)).training_runs
        except (NotFound, Unsupported):
            return None
        for run in runs:
            if name in ((run.user_metadata or {}).get(key) for key in _NAMES):
                return run
        if len(runs) < _PAGE:
            break
    return None


async def _newest_weights(rest: "RestClient", run: TrainingRun) -> str | None:
    if run.last_sampler_checkpoint is not None and run.last_sampler_checkpoint.tinker_path:
        return run.last_sampler_checkpoint.tinker_path
    try:
        listed = (await rest.list_checkpoints(run.training_run_id)).checkpoints
    except (NotFound, RunGone, Unsupported):
        return None
    fit = [one for one in listed if one.checkpoint_type == CheckpointKind.SAMPLER]
    return max(fit, key=lambda one: (one.time is not None, one.time)).tinker_path if fit else None
