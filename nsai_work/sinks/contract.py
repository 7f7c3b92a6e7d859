"""The contract of a sink, a class of the entry-point group ``nsai_work.sinks``.

A run's metrics are written as *points*, each once, in the order of their steps. A restore that is shown equal
repeats steps that are written already, so they are not written again. After one that is not, a new *segment*
begins: its first steps may have been written before, in the segment before, with other values.

All methods block, and are called one after the other in threads of the worker. An error ends no run: it is reported
as an event, and the points are offered again later.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from nsai_work.journal import ResumeMode


@dataclass(frozen=True, slots=True)
class SinkRun:
    """The training job whose metrics are written. ``folder`` is the place of local files, unless a setting says
    otherwise; it need not exist."""

    job_id: str
    name: str | None
    config: Mapping[str, JsonValue]
    folder: Path


@dataclass(frozen=True, slots=True)
class SinkSegment:
    """A part of a run whose metrics follow from one another. ``number`` counts from 1; it begins after
    ``from_step``, by a resume of this mode."""

    number: int
    from_step: int
    resume: ResumeMode


@dataclass(frozen=True, slots=True)
class SinkProgress:
    """The points of a segment that a sink has: those of the steps up to ``step``, and of the evaluations up to that
    of step ``evaluated``. Evaluations begin at step 0."""

    step: int = 0
    evaluated: int = -1


@dataclass(frozen=True, slots=True)
class Point:
    """The metrics of an optimizer step, or of an evaluation after it."""

    step: int
    is_evaluation: bool
    metrics: Mapping[str, float]
    recorded_at: datetime | None = None


class Sink(ABC):
    """A sink. The constructor validates ``settings`` without I/O, and raises InvalidRequest for invalid ones."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Modules of optional packages that the sink requires where it writes."""
    keeps_after_s: ClassVar[float] = 0.0
    """The time from the end of a ``write`` until its points outlive the process, of a sink that writes behind. What
    a worker wrote later than that before it died is written again by the next owner of the job."""

    @abstractmethod
    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        """Validate the settings."""

    @abstractmethod
    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        """Open the sink for a segment, which is marked as such from the second on; it may have been opened before.

        Returns what the sink has of the segment, as far as it can tell: a worker that died may have written points
        that are not counted as written yet.
        """

    @abstractmethod
    def write(self, points: Sequence[Point]) -> None:
        """Write points of the open segment. They are kept once the call returns, or ``keeps_after_s`` later."""

    @abstractmethod
    def close(self) -> None:
        """Close the sink, if it is open. What was written is kept once the call returns."""
