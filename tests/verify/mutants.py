"""Mutants of the product in worker processes of the tests: each breaks one promise, and must be found."""

from collections.abc import Callable, Iterable
from typing import Any, Final

MUTANT_VARIABLE: Final = "NSAI_TEST_VERIFY_MUTANT"


def plant(name: str) -> None:
    """Change the product in this process."""
    MUTANTS[name]()


def _accept_fenced_records() -> None:
    """Steps and intents are written whoever owns the job."""
    from sqlalchemy import select

    from nsai_work.store.journal import steps
    from nsai_work.store.schema import jobs

    def fence_all(tx: Any, claims: Iterable[Any]) -> dict[tuple[int, int], int]:
        owned = {(claim.seq, claim.fence) for claim in claims}
        seqs = sorted({seq for seq, _ in owned})
        rows = tx.connection.execute(select(jobs.c.seq, jobs.c.progress).where(jobs.c.seq.in_(seqs)))
        progress = {row.seq: row.progress for row in rows}
        return {(seq, fence): progress[seq] for seq, fence in owned}

    steps.fence_all = fence_all


def _take_unexpired_leases() -> None:
    """A job is taken from its owner although the lease has not expired."""
    from nsai_work.store.maintenance.leases import LeaseWatch

    LeaseWatch.expired = lambda self, observed, now: list(observed)  # type: ignore[method-assign]


def _repeat_without_a_record() -> None:
    """Open requests of a dead owner are sent again to a service that runs a repeat again."""
    from backends.tinkex.run import TinkexRun
    from crucible.training import RunFeatures

    known: Any = TinkexRun.features

    def features(run: TinkexRun) -> RunFeatures:
        return RunFeatures(**{**known.fget(run).model_dump(), "replays": True})

    TinkexRun.features = property(features)  # type: ignore[method-assign, assignment]


def _sample_rollouts_again() -> None:
    """An owner samples the turns of its predecessors again, although the journal has them."""
    from nsai_work.training.rollouts import source

    source.recorded_members = lambda *_, **__: ({}, {})


def _hide_lost_turns() -> None:
    """Nothing is reported of what is sampled anew in another session."""
    from nsai_work.training.rollouts.source import RolloutSource

    async def silent(self: Any, step: int, recorded: Any, tasks: Any) -> None:
        del self, step, recorded, tasks

    RolloutSource._report_reuse = silent  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "accept_fenced_records": _accept_fenced_records,
    "take_unexpired_leases": _take_unexpired_leases,
    "repeat_without_a_record": _repeat_without_a_record,
    "sample_rollouts_again": _sample_rollouts_again,
    "hide_lost_turns": _hide_lost_turns,
}
