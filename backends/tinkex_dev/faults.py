"""Faults on command: what to break, when, and how often."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from crucible.record import Record


class CorruptionMode(StrEnum):
    """How a poisoned run shows itself."""

    FLAG = "flag"
    """Flagged as corrupted, and further training requests fail."""
    NAN = "nan"
    """Not flagged; losses are NaN from now on, because the weights are."""
    SILENT = "silent"
    """Flagged, but requests go on being answered, from scrambled weights."""


class CorruptRun(Record):
    """Poison a run, now or once its optimizer has made a number of steps.

    Without ``model_id`` it befalls the first run that gets there. It strikes once.
    """

    kind: Literal["corrupt"] = "corrupt"
    model_id: str | None = None
    mode: CorruptionMode = CorruptionMode.FLAG
    after_optim_steps: int | None = Field(default=None, ge=0)


class LoseModel(Record):
    """Forget a live model; its run and checkpoints stay listed."""

    kind: Literal["lose_model"] = "lose_model"
    model_id: str


class ExpireSession(Record):
    """End a session as if it had not been heard of for too long; without an id, every session."""

    kind: Literal["expire_session"] = "expire_session"
    session_id: str | None = None


class DropFutures(Record):
    """Forget the answers kept so far: asking for one is then 410."""

    kind: Literal["drop_futures"] = "drop_futures"
    model_id: str | None = None


class ColdOptimizer(Record):
    """Load weights without their optimizer although it was asked for, and say nothing."""

    kind: Literal["cold_optimizer"] = "cold_optimizer"
    count: int = Field(default=1, ge=0)


class DamageCheckpoint(Record):
    """Break a checkpoint's file; its listing stays."""

    kind: Literal["damage_checkpoint"] = "damage_checkpoint"
    path: str
    how: Literal["truncated", "missing"] = "truncated"


class OutOfCredit(Record):
    """Answer everything that costs with 402, until switched off."""

    kind: Literal["out_of_credit"] = "out_of_credit"
    on: bool = True


class QueueState(StrEnum):
    """What a server says of the queue while an answer is not there yet."""

    ACTIVE = "active"
    PAUSED_CAPACITY = "paused_capacity"
    PAUSED_RATE_LIMIT = "paused_rate_limit"


class PauseQueue(Record):
    """Take requests and do not work on them, saying why to those who ask; ``active`` ends it."""

    kind: Literal["pause"] = "pause"
    state: QueueState = QueueState.PAUSED_CAPACITY
    reason: str | None = None


class NoReplay(Record):
    """Run a repeated seq_id again instead of answering from the record, until switched off."""

    kind: Literal["no_replay"] = "no_replay"
    on: bool = True


class Latency(Record):
    """Slow every HTTP call, or every operation of a model; what is not given stays as it is."""

    kind: Literal["latency"] = "latency"
    latency_ms: float | None = Field(default=None, ge=0)
    work_ms: float | None = Field(default=None, ge=0)


class AdvanceClock(Record):
    """Push the server's clock forward: sessions, leases and TTLs expire by it."""

    kind: Literal["advance_clock"] = "advance_clock"
    seconds: float = Field(ge=0)


class RouteFault(Record):
    """Disturb calls to a route: the first ``skip`` pass, the next ``count`` are hit.

    ``route`` is the first word after ``/api/v1/`` (``optim_step``, ``retrieve_future``, ``training_runs``), or
    ``*``. ``after`` lets the call take effect first and disturbs only its answer.
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
    detail: str = "a fault on command"


Fault = Annotated[
    CorruptRun
    | LoseModel
    | ExpireSession
    | DropFutures
    | ColdOptimizer
    | DamageCheckpoint
    | OutOfCredit
    | PauseQueue
    | NoReplay
    | Latency
    | AdvanceClock
    | RouteFault,
    Field(discriminator="kind"),
]


class Faults:
    """The faults that wait for their moment. Those that strike at once are not kept here."""

    def __init__(self) -> None:
        self._corruptions: list[CorruptRun] = []
        self._routes: list[RouteFault] = []
        self.clear()

    def add(self, fault: CorruptRun | RouteFault) -> None:
        """Keep a fault for later."""
        if isinstance(fault, CorruptRun):
            self._corruptions.append(fault)
        else:
            self._routes.append(fault)

    def clear(self) -> None:
        """Nothing is broken from now on; what was broken stays so."""
        self.out_of_credit = False
        self.cold_loads = 0
        self._corruptions.clear()
        self._routes.clear()

    def corruption_due(self, model_id: str, steps: int) -> CorruptionMode | None:
        """How the run is poisoned now, if its time has come; that fault is then spent."""
        for fault in self._corruptions:
            if fault.model_id in (None, model_id) and steps >= (fault.after_optim_steps or 0):
                self._corruptions.remove(fault)
                return fault.mode
        return None

    def take_cold_load(self) -> bool:
        """Whether this load is to lose its optimizer; counts it."""
        if self.cold_loads <= 0:
            return False
        self.cold_loads -= 1
        return True

    def strike(self, route: str) -> RouteFault | None:
        """The fault that hits this call, if any; counts it."""
        for place, fault in enumerate(self._routes):
            if fault.route not in ("*", route):
                continue
            if fault.skip:
                self._routes[place] = fault.model_copy(update={"skip": fault.skip - 1})
                continue
            if fault.count > 1:
                self._routes[place] = fault.model_copy(update={"count": fault.count - 1})
            else:
                del self._routes[place]
            return fault
        return None

    def waiting(self) -> list[dict[str, object]]:
        """What waits, as data."""
        kept: list[dict[str, object]] = [
            fault.model_dump(mode="json") for fault in (*self._corruptions, *self._routes)
        ]
        if self.out_of_credit:
            kept.append(OutOfCredit().model_dump(mode="json"))
        if self.cold_loads:
            kept.append(ColdOptimizer(count=self.cold_loads).model_dump(mode="json"))
        return kept
