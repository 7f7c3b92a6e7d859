"""The training driver: carries a training job from wherever its journal stands to its end.

It may be killed at any point. Whoever calls ``train`` next for the same job goes on where the journal says, on the
same remote run where that is safe, else from the newest checkpoint. There is one way in for the first start, for a
takeover after a death and for a recovery: read the journal, connect, work. There is one way out of every failure:
``decide``.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from pydantic import JsonValue

from crucible.backend import TrainingBackend
from crucible.errors import BackendError, CallerError, Canceled, CrucibleError, RunCorrupted
from crucible.training import RunHealth
from nsai_work.clock import Clock
from nsai_work.control import Control
from nsai_work.errors import HandOver, JobTimeout
from nsai_work.interruptible import Waiter, within
from nsai_work.job import Job
from nsai_work.journal import Journal, JournalSnapshot
from nsai_work.payloads import TrainingStep
from nsai_work.training.data import load_data
from nsai_work.training.datums import shared_datums
from nsai_work.training.decision import Action, Decision, Seen, decide, looks_at_health
from nsai_work.training.entry import connect
from nsai_work.training.lineage import EndReason, end_code, times_poisoned
from nsai_work.training.pipeline import fill, finish_oldest
from nsai_work.training.plan import Plan
from nsai_work.training.result import is_finished, training_result
from nsai_work.training.run_state import Assignment, Live, Progress

DRAIN_GRACE_S: Final = 3.0
"""How long a driver that is told to stop waits for what is under way. What is not done then is replayed later."""


async def train(
    *,
    job: Job,
    payload: TrainingStep,
    backend: TrainingBackend,
    journal: Journal,
    control: Control,
    clock: Clock,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
) -> dict[str, JsonValue]:
    """Train to the end and return the job's result. ``backend`` is open; ``jitter`` gives numbers in [0, 1).

    Raises:
        InvalidJob, DataChanged: the data is not usable.
        Canceled, JobTimeout, HandOver, LeaseLost: ``control`` said stop.
        OutOfCredit: the account cannot pay; the job is to wait.
        ResumeUnproven: a resume was less than the policy asks for.
        CrucibleError: anything else that recovery could not mend.
    """
    wait = Waiter(control)
    try:
        dataset = await asyncio.to_thread(load_data, payload.data)
        tokenizer = await wait(backend.tokenizer(payload.base_model))
        datums = await asyncio.to_thread(shared_datums, dataset, tokenizer, payload.max_tokens)
        assignment = Assignment(
            job_id=job.id,
            payload=payload,
            spec=payload.run_spec({"job_id": job.id}),
            plan=Plan.of(payload, len(datums)),
            datums=datums,
            backend=backend,
            journal=journal,
            clock=clock,
            wait=wait,
            sleep=sleep,
        )
        return await _Driver(assignment, jitter).run()
    finally:
        await wait.close()


class _Driver:
    def __init__(self, assignment: Assignment, jitter: Callable[[], float]) -> None:
        self._assignment = assignment
        self._jitter = jitter
        self._live: Live | None = None
        self._incidents = 0
        self._furthest = 0

    async def run(self) -> dict[str, JsonValue]:
        """Go on until the job is done, whatever fails on the way."""
        try:
            while True:
                try:
                    return await self._attempt()
                except (BackendError, CallerError) as error:
                    await self._mend(error)
        except (HandOver, JobTimeout):
            await self._drain()
            raise
        except Canceled:
            await self._leave(unload=True)
            raise
        finally:
            await self._leave()

    async def _attempt(self) -> dict[str, JsonValue]:
        assignment = self._assignment
        if self._live is None:
            snapshot = await assignment.journal.load()
            if is_finished(snapshot, assignment.plan):
                return training_result(snapshot, assignment.plan)
            self._live = await connect(assignment, snapshot)
            del snapshot  # thousands of steps, which the work does not need
            await assignment.wait.watch(self._live.run, assignment.payload.recovery.poll_interval_ms)
        await self._work(self._live)
        snapshot = await assignment.journal.load()
        await self._leave(unload=True)
        return training_result(snapshot, assignment.plan)

    async def _work(self, live: Live) -> None:
        while live.in_flight or not live.agenda.finished:
            self._assignment.wait.check()
            await fill(self._assignment, live)
            await finish_oldest(self._assignment, live, self._assignment.wait)

    async def _mend(self, error: CrucibleError) -> None:
        """Do about a failure what the table says."""
        if self._live is not None:
            await self._live.sender.stop_orderly()
        snapshot = await self._assignment.journal.load()
        seen = await self._look(error, snapshot)
        decision = decide(seen)
        await self._tell(decision, snapshot)
        match decision.action:
            case Action.FAIL | Action.PAUSE:
                raise decision.error from error
            case Action.RESTORE | Action.SKIP_BATCH:
                await self._fence(decision, snapshot)
            case Action.REPLAY:
                # where repeats are not safe, nothing here is unsent, and the same results are awaited again
                if self._live is not None and seen.replays is True:
                    self._live.send_again()
        if decision.delay_ms:
            delay_s = decision.delay_ms / 1000 * (1 + self._jitter() / 4)
            # a run that is marked corrupted meanwhile is still marked at the next wait, where that is mended
            with suppress(RunCorrupted):
                await self._assignment.wait(_sleep(self._assignment.sleep, delay_s))

    async def _look(self, error: CrucibleError, snapshot: JournalSnapshot) -> Seen:
        furthest = Progress.of(snapshot).furthest
        self._incidents = 1 if furthest > self._furthest else self._incidents + 1
        self._furthest = furthest
        return Seen(
            error=error,
            policy=self._assignment.payload.recovery,
            health=await self._health(error),
            replays=self._live.run.features.replays if self._live else None,
            effect_unknown=self._live is not None and self._live.effect_unknown,
            incidents=self._incidents,
            times_poisoned=times_poisoned(snapshot.runs, snapshot.last_step + 1) + 1,
        )

    async def _health(self, error: CrucibleError) -> RunHealth | None:
        if self._live is None or not looks_at_health(error):
            return None
        with suppress(BackendError):
            return await self._assignment.wait(self._live.run.health())
        return None

    async def _tell(self, decision: Decision, snapshot: JournalSnapshot) -> None:
        await self._assignment.journal.event(
            "training.incident",
            {
                "error": decision.error.code,
                "reason": decision.reason,
                "action": decision.action.value,
                "step": snapshot.last_step + 1,
                "generation": snapshot.run.generation if snapshot.run else None,
                "incidents": self._incidents,
            },
        )

    async def _fence(self, decision: Decision, snapshot: JournalSnapshot) -> None:
        """This remote run counts no more. What it still does has no way into the journal."""
        run = snapshot.run
        if run is not None and run.end_reason is None:
            code = end_code(decision.error, poisoned=decision.poisoned)
            reason = EndReason(code, snapshot.last_step + 1, decision.reason)
            await self._assignment.journal.end_run(run.generation, str(reason))
        await self._leave(unload=True)

    async def _drain(self) -> None:
        """Record what is done within the grace period; the rest is replayed by the next owner."""
        live = self._live
        if live is None:
            return
        await live.sender.stop_orderly()
        deadline = asyncio.ensure_future(_sleep(self._assignment.sleep, DRAIN_GRACE_S))
        try:
            while live.in_flight and not live.in_flight[0].unsent:
                await finish_oldest(self._assignment, live, partial(within, deadline=deadline))
        except (TimeoutError, BackendError, CallerError):
            pass
        finally:
            deadline.cancel()
            await asyncio.gather(deadline, return_exceptions=True)

    async def _leave(self, *, unload: bool = False) -> None:
        live, self._live = self._live, None
        await self._assignment.wait.unwatch()
        if live is not None:
            await live.sender.stop()
            # a run that cannot be told to end ends by itself, without heartbeats
            with suppress(CrucibleError):
                await live.run.close(unload=unload)


async def _sleep(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)
