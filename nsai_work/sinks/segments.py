"""The progress of a sink, and the remote runs of a job that begin a new segment of it."""

from collections.abc import Mapping, Sequence
from typing import Final

from nsai_work.journal import RemoteRun, ResumeMode, SinkMark

_EQUAL: Final = frozenset({ResumeMode.FRESH, ResumeMode.WARM, ResumeMode.EXACT})
_PROOF_STEPS: Final = 2
"""The number of repeated steps by which a resume is proven."""


def advanced(
    mark: SinkMark, runs: Sequence[RemoteRun], recorded: Mapping[int, int], *, ended: bool = False
) -> SinkMark | None:
    """Return the mark after the runs that have begun since; None while a resume may still be proven.

    ``recorded`` is the number of steps that each generation has recorded, superseded ones too. ``ended``: the
    newest run records no more.
    """
    for run in runs:
        if run.generation <= mark.generation:
            continue
        newest = run is runs[-1] and not ended
        count = recorded.get(run.generation, 0)
        if run.resume in _EQUAL or (not newest and not count):
            # equal steps are written already; a run that recorded none left nothing to tell apart
            mark = mark.model_copy(update={"generation": run.generation})
        elif newest and run.resume is ResumeMode.UNVERIFIED and count <= min(run.lost_steps, _PROOF_STEPS):
            # with one step more than the proof needs, so that its finding is in the store
            if run.lost_steps or not count:
                return None
            mark = _new_segment(mark, run)
        else:
            mark = _new_segment(mark, run)
    return mark


def _new_segment(mark: SinkMark, run: RemoteRun) -> SinkMark:
    first_evaluation = run.from_step if run.restored_from is not None else -1
    return SinkMark(
        segment=mark.segment + 1,
        generation=run.generation,
        from_step=run.from_step,
        resume=run.resume,
        step=min(mark.step, run.from_step),
        evaluated=min(mark.evaluated, first_evaluation),
    )
