"""Saved training states in new remote runs that are no recoveries: a start, or a reference model."""

from crucible.backend import TrainingBackend
from crucible.errors import BackendError, NoCheckpoint, RecoveryExhausted
from crucible.recovery import RecoveryEvent, RecoveryPolicy, RecoveryRequest
from crucible.training import CheckpointRef, LiveRun, RunRef, RunSpec


async def load_state(
    backend: TrainingBackend, spec: RunSpec, path: str, *, field: str, optimizer: bool = False
) -> LiveRun:
    """Return a new run in the state of a checkpoint, given by its path; ``field`` is the job's field that names it.

    Raises:
        NoCheckpoint: it does not exist, or does not fit the run.
        BackendError: the service failed.
    """
    request = RecoveryRequest(
        failed=RunRef(backend=backend.name, run_id=field),
        spec=spec,
        reason=f"{field} of a job",
        policy=RecoveryPolicy(enabled=True, max_attempts=1, restore_optimizer=optimizer),
        candidates=(CheckpointRef(path=path, name=field, step=0),),
    )
    try:
        return (await backend.recover(request, observe=_ignore)).run
    except NoCheckpoint as error:
        raise NoCheckpoint(f"payload.{field}: {error.message}", backend=backend.name) from error
    except RecoveryExhausted as error:
        # nothing was to be recovered: what failed decides what follows
        if isinstance(error.__cause__, BackendError):
            raise error.__cause__ from None
        raise


async def _ignore(event: RecoveryEvent, /) -> None:
    pass
