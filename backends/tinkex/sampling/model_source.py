"""Resolution of a model name: a base model, a checkpoint's address, or a run's newest weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.checkpoint_path import CheckpointKind
from backends.tinkex.types.training_run import TrainingRun
from crucible.errors import InvalidRequest, NotFound, RunGone, Unsupported

if TYPE_CHECKING:
    from backends.tinkex.client.rest.client import RestClient

_FIELD: Final = "options.model"
_NAME_KEYS: Final = ("name", "run_name", "job_id")
_MAX_RUNS_SEARCHED: Final = 200
_PAGE_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The weights to sample from. ``checkpoint`` is None for a base model."""

    name: str
    base_model: str
    checkpoint: CheckpointAddress | None = None

    @property
    def path(self) -> str | None:
        """The checkpoint's address as text."""
        return None if self.checkpoint is None else self.checkpoint.text


async def find_model(rest: "RestClient", name: str, base_models: Sequence[str]) -> ModelSource:
    """Resolve a model name.

    A run is named by its id, or by ``name``, ``run_name`` or ``job_id`` in its user metadata; it stands for its
    newest sampling weights.

    Raises:
        InvalidRequest: the name is unknown; the error lists the alternatives.
    """
    if name in base_models:
        return ModelSource(name, name)
    if "://" in name or name.startswith("/"):
        return await _from_checkpoint(rest, CheckpointAddress.parse(name, field=_FIELD), name, base_models)
    run = await _find_run(rest, name)
    if run is None:
        raise invalid(
            _FIELD,
            name,
            f"allowed are the base models {', '.join(base_models)}, tinker://RUN/sampler_weights/NAME, "
            "and the id or name of a run",
        )
    path = await _newest_weights(rest, run)
    if path is None:
        raise invalid(_FIELD, name, "the run has no weights for sampling; save some first")
    return await _from_checkpoint(rest, CheckpointAddress.parse(path, field=_FIELD), name, base_models)


async def _from_checkpoint(
    rest: "RestClient", checkpoint: CheckpointAddress, name: str, base_models: Sequence[str]
) -> ModelSource:
    try:
        base_model = (await rest.get_weights_info_by_tinker_path(checkpoint)).base_model
    except (NotFound, RunGone, InvalidRequest) as error:
        if checkpoint.parts is None:
            checkpoint.required_parts(_FIELD)
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest.of(_FIELD, name, error.message, backend=BACKEND) from error
    except Unsupported:
        if checkpoint.parts is None and len(base_models) == 1:
            base_model = base_models[0]
        else:
            base_model = (await rest.get_training_run_by_tinker_path(checkpoint)).base_model
    return ModelSource(name, base_model, checkpoint)


async def _find_run(rest: "RestClient", name: str) -> TrainingRun | None:
    try:
        return await rest.get_training_run(name)
    except (NotFound, RunGone, Unsupported, InvalidRequest):
        pass
    for offset in range(0, _MAX_RUNS_SEARCHED, _PAGE_SIZE):
        try:
            runs = (await rest.list_training_runs(limit=_PAGE_SIZE, offset=offset)).training_runs
        except (NotFound, Unsupported):
            return None
        for run in runs:
            if name in ((run.user_metadata or {}).get(key) for key in _NAME_KEYS):
                return run
        if len(runs) < _PAGE_SIZE:
            break
    return None


async def _newest_weights(rest: "RestClient", run: TrainingRun) -> str | None:
    if run.last_sampler_checkpoint is not None and run.last_sampler_checkpoint.tinker_path:
        return run.last_sampler_checkpoint.tinker_path
    try:
        checkpoints = (await rest.list_checkpoints(run.training_run_id)).checkpoints
    except (NotFound, RunGone, Unsupported):
        return None
    candidates = [item for item in checkpoints if item.checkpoint_type == CheckpointKind.SAMPLER]
    if not candidates:
        return None
    return max(candidates, key=lambda item: (item.time is not None, item.time)).tinker_path
