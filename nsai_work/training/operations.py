"""The ordered operations of a remote run: steps, forward passes and saves, on one axis of steps.

The order depends only on the plan and the policies. So a later owner derives the same operations as the one that
died, and can compare each with its journaled intent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from crucible.training import IntentKind
from nsai_work.files.home import file_name
from nsai_work.journal import CheckpointStatus, JournalSnapshot, RemoteRun
from nsai_work.policies import CheckpointPolicy, StepFacts
from nsai_work.training.plan import Plan
from nsai_work.training.restart.lineage import SKIPPED


@dataclass(frozen=True, slots=True)
class Operation:
    """A numbered operation of a step. A ``skipped`` step is recorded but never sent. ``name`` is the name of a
    save, or distinguishes the forward passes of a step. ``evaluates`` is the number of a pass of an evaluation. An
    evaluation that ``plays`` tasks has no pass: its rollouts are no operations of the run. The weights of a
    ``policy`` are saved for rollouts."""

    kind: IntentKind
    step: int
    name: str | None = None
    skipped: bool = False
    evaluates: int | None = None
    plays: bool = False
    policy: bool = False

    @property
    def is_evaluation(self) -> bool:
        """It evaluates the weights, by a forward pass or by rollouts."""
        return self.evaluates is not None or self.plays


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """The steps after which a run is evaluated: 0, every ``every``, and the last; in ``passes`` forward passes, or
    by rollouts on tasks if it ``plays``. With ``saves`` their states are saved."""

    every: int
    passes: int = 0
    saves: bool = False
    plays: bool = False

    def is_due(self, step: int, last_step: int) -> bool:
        """Return whether the weights after a step are evaluated."""
        return step % self.every == 0 or step == last_step


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the operations of a run: behind ``operation``, or before it if it is to be repeated."""

    operation: Operation
    repeat: bool = False


class OperationSequence:
    """Iterates over the operations of one remote run.

    Those of a step are, in this order: with ``forward`` a forward pass of that name over its batch; the step; the
    weights for rollouts, after every ``policy_every`` steps and where an evaluation plays; the passes of its
    evaluation, before the save that needs its metrics; the save; after the last step the sampling weights. Step 0
    has weights for rollouts and an evaluation only. ``position`` is where an earlier owner stopped; None at the
    start of a new run. ``last_step`` is that of the plan, unless the run has stopped early.
    """

    def __init__(
        self,
        plan: Plan,
        policy: CheckpointPolicy,
        *,
        run_name: str,
        forward: str | None = None,
        skipped: frozenset[int] = frozenset(),
        evaluation: EvaluationPlan | None = None,
        policy_every: int | None = None,
        last_step: int | None = None,
        position: Position | None = None,
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._run_name = run_name
        self._forward = forward
        self._skipped = skipped
        self._evaluation = evaluation
        self._policy_every = policy_every
        self.last_step = plan.total_steps if last_step is None else last_step
        """The last step of the run."""
        self._step = 0 if position is None else position.operation.step
        self._left = list(self.at(self._step))
        if position is not None:
            self._left = self._behind(position)
        self._skip_empty_steps()

    @property
    def finished(self) -> bool:
        """The last operation has been passed."""
        return not self._left

    def peek(self) -> Operation | None:
        """Return the next operation; None at the end."""
        return self._left[0] if self._left else None

    def advance(self, operation: Operation) -> None:
        """Move past the operation that ``peek`` returned."""
        assert operation == self._left[0]
        del self._left[0]
        self._skip_empty_steps()

    def at(self, step: int) -> Sequence[Operation]:
        """Return the operations of a step, in order."""
        operations = [*self._step_at(step), *self._policy_at(step), *self._evaluation_at(step)]
        if step and self._save_due(step):
            operations.append(Operation(IntentKind.SAVE_STATE, step, checkpoint_name(self._run_name, step)))
        if step == self.last_step:
            operations.append(Operation(IntentKind.SAVE_SAMPLER, step, sampler_name(self._run_name, step)))
        return operations

    def stop(self, operation: Operation) -> None:
        """End the run early, at the step of ``operation``, which was the last to be passed."""
        # where no save was due, the next step had been begun
        self.last_step = self._step = operation.step
        self._left = self._behind(Position(operation))

    def is_evaluated(self, step: int) -> bool:
        """Return whether the weights after a step are evaluated."""
        return self._evaluation is not None and self._evaluation.is_due(step, self.last_step)

    @property
    def passes(self) -> int:
        """The number of forward passes in an evaluation."""
        return self._evaluation.passes if self._evaluation is not None else 0

    def _step_at(self, step: int) -> list[Operation]:
        skipped = step in self._skipped
        operations = [Operation(IntentKind.STEP, step, skipped=skipped)] if step else []
        if self._forward is not None and operations and not skipped:
            operations.insert(0, Operation(IntentKind.FORWARD, step, self._forward))
        return operations

    def _policy_at(self, step: int) -> list[Operation]:
        trains = self._policy_every is not None and step % self._policy_every == 0 and step < self.last_step
        if not trains and not (self._plays and self.is_evaluated(step)):
            return []
        return [Operation(IntentKind.SAVE_SAMPLER, step, policy_name(self._run_name, step), policy=True)]

    @property
    def _plays(self) -> bool:
        return self._evaluation is not None and self._evaluation.plays

    def _evaluation_at(self, step: int) -> list[Operation]:
        if not self.is_evaluated(step):
            return []
        if self._plays:
            return [Operation(IntentKind.FORWARD, step, "eval-tasks", plays=True)]
        return [
            Operation(IntentKind.FORWARD, step, f"eval-{number:04d}", evaluates=number)
            for number in range(self.passes)
        ]

    def _behind(self, position: Position) -> list[Operation]:
        done, operations = position.operation, self.at(self._step)
        if done.kind is IntentKind.SAVE_STATE and done.name is None and not position.repeat:
            # a restored run saves the weights for rollouts itself; an evaluation that is recorded costs nothing
            return [known for known in operations if known.kind is IntentKind.SAVE_SAMPLER or known.plays]
        # a run restored from a checkpoint continues behind a save that another run made, under that run's name
        places = [
            place
            for place, known in enumerate(operations)
            if known.kind is done.kind and (known.name == done.name or done.name is None)
        ]
        # a save that the policy would not make is behind its step and the evaluation of that
        passed = (IntentKind.STEP, IntentKind.FORWARD)
        steps = [place for place, known in enumerate(operations) if known.kind in passed]
        place = (places or steps)[-1]
        return list(operations[place + (not position.repeat) :])

    def _skip_empty_steps(self) -> None:
        while not self._left and self._step < self.last_step:
            self._step += 1
            self._left = list(self.at(self._step))

    def _save_due(self, step: int) -> bool:
        if self._evaluation is not None and self._evaluation.saves and self.is_evaluated(step):
            return True
        return step == self.last_step or self._policy.should_save(
            StepFacts(step=step, total_steps=self._plan.total_steps, steps_per_epoch=self._plan.steps_per_epoch)
        )


def save_id(job_id: str) -> str:
    """Return the end of a job's id as saves are named by it, whatever the id is: services take names of letters,
    digits, ``.``, ``_`` and ``-`` that begin with a letter or digit."""
    return file_name(job_id)[-12:].lstrip("_-") or "id"


def run_name(job_id: str, generation: int) -> str:
    """Return the prefix of a remote run's save names. It contains the generation, so a repeated save matches its
    own earlier save and never that of another run."""
    return f"{save_id(job_id)}-g{generation:03d}"


def checkpoint_name(run_name: str, step: int) -> str:
    """Return the name of the training state after a step."""
    return f"{run_name}-s{step:06d}"


def sampler_name(run_name: str, step: int) -> str:
    """Return the name of the sampling weights. It differs from ``checkpoint_name`` because some services keep both
    kinds in one namespace."""
    return f"{checkpoint_name(run_name, step)}-model"


def policy_name(run_name: str, step: int) -> str:
    """Return the name of sampling weights for rollouts, which are deleted behind the run."""
    return f"{checkpoint_name(run_name, step)}-policy"


def last_position(snapshot: JournalSnapshot, run: RemoteRun) -> Position | None:
    """Return the position behind the last recorded operation of a run; None before its first."""
    step, closed = snapshot.last_step, snapshot.last_closed
    if _is_skipped(snapshot, run) and (closed is None or closed.step < step):
        return Position(Operation(IntentKind.STEP, step))
    if closed is None:
        return Position(Operation(IntentKind.SAVE_STATE, run.from_step)) if run.from_step else None
    # a save whose check was interrupted is made again, under its own name
    repeat = closed.kind is IntentKind.SAVE_STATE and any(
        checkpoint.name == closed.name and checkpoint.status is CheckpointStatus.PENDING
        for checkpoint in snapshot.checkpoints
    )
    return Position(Operation(closed.kind, closed.step, closed.name), repeat)


def _is_skipped(snapshot: JournalSnapshot, run: RemoteRun) -> bool:
    if not snapshot.steps or snapshot.steps[-1].generation != run.generation:
        return False
    return SKIPPED in snapshot.steps[-1].metrics
