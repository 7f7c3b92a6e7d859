"""Fault injection: the kinds of fault, and the table of scheduled ones."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from crucible.values.record import Record


class CorruptionMode(StrEnum):
    """Symptoms of a corrupted run."""

    FLAG = "flag"
    """Flagged as corrupted; further training requests fail."""
    NAN = "nan"
    """Not flagged; losses are NaN from then on, because the weights are."""
    SILENT = "silent"
    """Flagged, but requests are still answered, from scrambled weights."""


class CorruptRun(Record):
    """Corrupt a run, at once or after a number of optimizer steps.

    Without ``model_id`` it applies to the first run that reaches that step. It strikes once.
    """

    kind: Literal["corrupt"] = "corrupt"
    model_id: str | None = None
    mode: CorruptionMode = CorruptionMode.FLAG
    after_optim_steps: int | None = Field(default=None, ge=0)


class LoseModel(Record):
    """Unload a live model; its run and checkpoints stay listed."""

    kind: Literal["lose_model"] = "lose_model"
    model_id: str


class ExpireSession(Record):
    """End a session as if it had been idle for too long; without an id, every session."""

    kind: Literal["expire_session"] = "expire_session"
    session_id: str | None = None


class DropFutures(Record):
    """Drop the results retained so far; retrieving one is then 410."""

    kind: Literal["drop_futures"] = "drop_futures"
    model_id: str | None = None


class ColdOptimizer(Record):
    """Silently load weights without the optimizer state that the request asks for."""

    kind: Literal["cold_optimizer"] = "cold_optimizer"
    count: int = Field(default=1, ge=0)


class DamageCheckpoint(Record):
    """Truncate or remove a checkpoint's file; its listing stays."""

    kind: Literal["damage_checkpoint"] = "damage_checkpoint"
    path: str
    how: Literal["truncated", "missing"] = "truncated"


class ExhaustCredit(Record):
    """Answer all billable calls with 402, until switched off."""

    kind: Literal["out_of_credit"] = "out_of_credit"
    on: bool = True


class ServerQueueState(StrEnum):
    """State of the queue, reported while a result is pending."""

    ACTIVE = "active"
    PAUSED_CAPACITY = "paused_capacity"
    PAUSED_RATE_LIMIT = "paused_rate_limit"


class PauseQueue(Record):
    """Accept requests without executing them, and report the reason to pollers; ``active`` resumes."""

    kind: Literal["pause"] = "pause"
    state: ServerQueueState = ServerQueueState.PAUSED_CAPACITY
    reason: str | None = None


class NoReplay(Record):
    """Run a repeated seq_id again instead of answering it from the record of requests, until switched off."""

    kind: Literal["no_replay"] = "no_replay"
    on: bool = True


class Latency(Record):
    """Delay every HTTP call, or every operation of a model; None leaves a delay unchanged."""

    kind: Literal["latency"] = "latency"
    latency_ms: float | None = Field(default=None, ge=0)
    work_ms: float | None = Field(default=None, ge=0)


class AdvanceClock(Record):
    """Advance the server's clock, by which sessions and times to live expire."""

    kind: Literal["advance_clock"] = "advance_clock"
    seconds: float = Field(ge=0)


class RouteFault(Record):
    """Delay, refuse or cut calls to a route: the first ``skip`` pass, the next ``count`` are hit.

    ``route`` is the first segment after ``/api/v1/`` (``optim_step``, ``retrieve_future``, ``training_runs``), or
    ``*``. With ``after`` the call takes effect first, and only its answer is affected.
    """

    kind: Literal["route"] = "route"
    route: str = "*"
    status: int | None = Field(default=None, ge=400, le=599)
    reset: bool = False
    delay_ms: float = Field(default=0, ge=0)
    after: bool = False
    skip: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)
    retry_after_s: float | None = Field(default=None, ge=0)
    detail: str = "an injected fault"


class FailOperation(Record):
    """Accept operations and fail them, without effect: the first ``skip`` pass, the next ``count`` fail.

    ``operation`` is ``forward_backward``, ``optim_step``, ``save_weights``, ``save_weights_for_sampler``,
    ``load_weights``, ``forward``, or ``*``. The failure is on record: the same request, repeated, has the same
    answer.
    """

    kind: Literal["fail_operation"] = "fail_operation"
    operation: str = "*"
    category: Literal["server", "user", "unknown"] = "server"
    detail: str = "an injected failure"
    skip: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)


Fault = Annotated[
    CorruptRun
    | LoseModel
    | ExpireSession
    | DropFutures
    | ColdOptimizer
    | DamageCheckpoint
    | ExhaustCredit
    | PauseQueue
    | NoReplay
    | Latency
    | AdvanceClock
    | RouteFault
    | FailOperation,
    Field(discriminator="kind"),
]


F = TypeVar("F", RouteFault, FailOperation)


class Faults:
    """The scheduled faults. Immediate ones are not recorded here."""

    def __init__(self) -> None:
        self._corruptions: list[CorruptRun] = []
        self._routes: list[RouteFault] = []
        self._operations: list[FailOperation] = []
        self.clear()

    def add(self, fault: CorruptRun | RouteFault | FailOperation) -> None:
        """Schedule a fault."""
        if isinstance(fault, CorruptRun):
            self._corruptions.append(fault)
        elif isinstance(fault, FailOperation):
            self._operations.append(fault)
        else:
            self._routes.append(fault)

    def clear(self) -> None:
        """Cancel all scheduled faults; damage already done stays."""
        self.out_of_credit = False
        self.cold_loads = 0
        self._corruptions.clear()
        self._routes.clear()
        self._operations.clear()

    def corruption_due(self, model_id: str, steps: int) -> CorruptionMode | None:
        """The mode of a corruption that is due for the run at that step, if any; consumes the fault."""
        for fault in self._corruptions:
            if fault.model_id in (None, model_id) and steps >= (fault.after_optim_steps or 0):
                self._corruptions.remove(fault)
                return fault.mode
        return None

    def consume_cold_load(self) -> bool:
        """Check whether this load loses its optimizer state; consumes one count."""
        if self.cold_loads <= 0:
            return False
        self.cold_loads -= 1
        return True

    def strike(self, route: str) -> RouteFault | None:
        """The fault that hits this call, if any; consumes one count."""
        return _consume(self._routes, lambda fault: fault.route in ("*", route))

    def failure_due(self, operation: str) -> FailOperation | None:
        """The failure of this operation, if any; consumes one count."""
        return _consume(self._operations, lambda fault: fault.operation in ("*", operation))

    def scheduled(self) -> list[dict[str, object]]:
        """The scheduled faults as JSON objects."""
        listed: list[dict[str, object]] = [
            fault.model_dump(mode="json") for fault in (*self._corruptions, *self._routes, *self._operations)
        ]
        if self.out_of_credit:
            listed.append(ExhaustCredit().model_dump(mode="json"))
        if self.cold_loads:
            listed.append(ColdOptimizer(count=self.cold_loads).model_dump(mode="json"))
        return listed


def _consume(faults: list[F], hits: Callable[[F], bool]) -> F | None:
    """The first fault that hits and has nothing to skip; consumes one count, and a skip of those before it."""
    for index, fault in enumerate(faults):
        if not hits(fault):
            continue
        if fault.skip:
            faults[index] = fault.model_copy(update={"skip": fault.skip - 1})
            continue
        if fault.count > 1:
            faults[index] = fault.model_copy(update={"count": fault.count - 1})
        else:
            del faults[index]
        return fault
    return None
