"""What a remote run still has to do, in order: steps, the saves between them, and at the end the sampling weights.

The order follows from the plan, the checkpoint policy and what is recorded. So a later owner comes to the same
operations as the one that died, and can hold each against the intent that was journaled.
"""

from dataclasses import dataclass

from crucible.training import IntentKind
from nsai_work.journal import CheckpointStatus, JournalSnapshot, RemoteRun
from nsai_work.policies import CheckpointPolicy, CheckpointStrategy, StepFacts
from nsai_work.training.plan import Plan


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to do. A ``skipped`` step is only recorded; nothing of it is sent. ``name`` is that of a save."""

    kind: IntentKind
    step: int
    name: str | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is known of the metric that chooses checkpoints: after ``step``, and the best of all checkpoints."""

    step: int
    metric: float | None
    best: float | None


class Agenda:
    """The operations of one remote run, one after the other."""

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
        self._taken = done

    @property
    def finished(self) -> bool:
        """Whether nothing is left to take."""
        return self._taken is not None and self._taken.kind is IntentKind.SAVE_SAMPLER

    def peek(self, known: Metrics) -> Operation | None:
        """What comes next; None when nothing is left, or when that depends on a result which is still to come."""
        taken = self._taken
        if taken is None:
            return self._step(1)
        match taken.kind:
            case IntentKind.STEP:
                due = self._save_due(taken.step, known)
                return None if due is None else self._save(taken.step) if due else self._step(taken.step + 1)
            case IntentKind.SAVE_STATE if taken.step < self._plan.total_steps:
                return self._step(taken.step + 1)
            case IntentKind.SAVE_STATE:
                return Operation(IntentKind.SAVE_SAMPLER, taken.step, sampler_name(self._run_name, taken.step))
            case IntentKind.SAVE_SAMPLER:
                return None

    def take(self, operation: Operation) -> None:
        """Go past an operation that ``peek`` gave."""
        self._taken = operation

    def _step(self, step: int) -> Operation:
        return Operation(IntentKind.STEP, step, skipped=step in self._skipped)

    def _save(self, step: int) -> Operation:
        return Operation(IntentKind.SAVE_STATE, step, checkpoint_name(self._run_name, step))

    def _save_due(self, step: int, known: Metrics) -> bool | None:
        facts = StepFacts(step=step, total_steps=self._plan.total_steps, steps_per_epoch=self._plan.steps_per_epoch)
        if self._policy.strategy is not CheckpointStrategy.BEST or step == self._plan.total_steps:
            return self._policy.wants_save(facts)
        if step % self._policy.save_every != 0:
            return False
        if known.step < step:
            return None
        return self._policy.is_better(known.metric, known.best)


def run_name(job_id: str, generation: int) -> str:
    """What the names of a remote run's saves begin with. It tells generations apart, so that a save which is
    repeated finds its own name and never another's."""
    return f"{job_id[-12:]}-g{generation:03d}"


def checkpoint_name(run_name: str, step: int) -> str:
    """The name of the training state after a step."""
    return f"{run_name}-s{step:06d}"


def sampler_name(run_name: str, step: int) -> str:
    """The name of the sampling weights: another one, since some services keep both kinds in one place."""
    return f"{checkpoint_name(run_name, step)}-model"


def last_done(snapshot: JournalSnapshot, run: RemoteRun) -> Operation | None:
    """The last operation of a run whose result is recorded; None before its first."""
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
