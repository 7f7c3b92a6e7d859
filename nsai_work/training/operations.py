"""The ordered operations of a remote run: steps, the saves between them, and finally the sampling weights.

The order depends only on the plan and the checkpoint policy. So a later owner derives the same operations as the
one that died, and can compare each with its journaled intent.
"""

from dataclasses import dataclass

from crucible.training import IntentKind
from nsai_work.journal import CheckpointStatus, JournalSnapshot, RemoteRun
from nsai_work.policies import CheckpointPolicy, StepFacts
from nsai_work.training.plan import Plan


@dataclass(frozen=True, slots=True)
class Operation:
    """A step or a save. A ``skipped`` step is recorded but never sent. ``name`` is the name of a save."""

    kind: IntentKind
    step: int
    name: str | None = None
    skipped: bool = False


class OperationSequence:
    """Iterates over the operations of one remote run; ``done`` is the last one recorded by an earlier owner."""

    def __init__(
        self,
        plan: Plan,
        policy: CheckpointPolicy,
        *,
        run_name: str,
        skipped: frozenset[int] = frozenset(),
        done: Operation | None = None,
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._run_name = run_name
        self._skipped = skipped
        self._last = done

    @property
    def finished(self) -> bool:
        """Whether the last operation has been passed."""
        return self._last is not None and self._last.kind is IntentKind.SAVE_SAMPLER

    def peek(self) -> Operation | None:
        """Return the next operation; None at the end."""
        last = self._last
        if last is None:
            return self._step(1)
        match last.kind:
            case IntentKind.STEP:
                return self._save(last.step) if self._save_due(last.step) else self._step(last.step + 1)
            case IntentKind.SAVE_STATE if last.step < self._plan.total_steps:
                return self._step(last.step + 1)
            case IntentKind.SAVE_STATE:
                return Operation(IntentKind.SAVE_SAMPLER, last.step, sampler_name(self._run_name, last.step))
            case _:
                return None

    def advance(self, operation: Operation) -> None:
        """Move past an operation returned by ``peek``."""
        self._last = operation

    def _step(self, step: int) -> Operation:
        return Operation(IntentKind.STEP, step, skipped=step in self._skipped)

    def _save(self, step: int) -> Operation:
        return Operation(IntentKind.SAVE_STATE, step, checkpoint_name(self._run_name, step))

    def _save_due(self, step: int) -> bool:
        return self._policy.should_save(
            StepFacts(step=step, total_steps=self._plan.total_steps, steps_per_epoch=self._plan.steps_per_epoch)
        )


def run_name(job_id: str, generation: int) -> str:
    """Return the prefix of a remote run's save names. It contains the generation, so a repeated save matches its
    own earlier save and never that of another run."""
    return f"{job_id[-12:]}-g{generation:03d}"


def checkpoint_name(run_name: str, step: int) -> str:
    """Return the name of the training state after a step."""
    return f"{run_name}-s{step:06d}"


def sampler_name(run_name: str, step: int) -> str:
    """Return the name of the sampling weights. It differs from ``checkpoint_name`` because some services keep both
    kinds in one namespace."""
    return f"{checkpoint_name(run_name, step)}-model"


def last_done(snapshot: JournalSnapshot, run: RemoteRun) -> Operation | None:
    """Return the last recorded operation of a run; None before its first."""
    step = snapshot.last_step
    if step == 0:
        return None
    saved = step == run.from_step or any(
        checkpoint.generation == run.generation
        and checkpoint.step == step
        and checkpoint.status is not CheckpointStatus.PENDING
        for checkpoint in snapshot.checkpoints
    )
    return Operation(IntentKind.SAVE_STATE if saved else IntentKind.STEP, step)
