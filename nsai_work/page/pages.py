"""The pages: their addresses, the views that they show, and their templates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from nsai_work.page.drawing.loss_curve import draw_curve, draw_curves
from nsai_work.page.views.compare import CompareQuery, JobComparison, read_comparison
from nsai_work.page.views.job import JobPage, JobQuery, read_job, read_whole_job
from nsai_work.page.views.jobs import JobsQuery, read_jobs
from nsai_work.page.views.overview import read_overview
from nsai_work.page.views.queue import read_queue
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.page.views.workers import WorkersQuery, read_workers
from nsai_work.store.engine.database import Tx


@dataclass(frozen=True, slots=True)
class Page:
    """A page at ``path``, with its JSON twin at ``path`` + ``.json``.

    ``read`` reads its view, ``read_live`` what changes on an open page. ``draw`` adds drawings for the template.
    """

    name: str
    title: str
    path: str
    query: type[ViewQuery]
    read: Callable[[Tx, Any], View]
    read_live: Callable[[Tx, Any], View]
    draw: Callable[[Any], dict[str, Any]] = lambda view: {}
    in_menu: bool = True

    @property
    def twin(self) -> str:
        """The path of the JSON twin."""
        return f"{self.path if self.path != '/' else '/overview'}.json"

    @property
    def live(self) -> str:
        """The path of the stream of changes."""
        return f"/live{self.path if self.path != '/' else '/overview'}"


def _job_drawing(view: JobPage) -> dict[str, Any]:
    return {
        "drawing": None if view.curve is None else draw_curve(view.curve),
        "reward_drawing": None if view.rollouts is None else draw_curve(view.rollouts.curve),
    }


def _comparison_drawing(view: JobComparison) -> dict[str, Any]:
    curves = [(job.line.name or job.line.id, job.curve) for job in view.jobs]
    return {"drawing": draw_curves(curves) if curves else None}


PAGES: Final = (
    Page("overview", "Overview", "/", ViewQuery, read_overview, read_overview),
    Page("jobs", "Jobs", "/jobs", JobsQuery, read_jobs, read_jobs),
    Page("job", "Job", "/job", JobQuery, read_whole_job, read_job, _job_drawing, in_menu=False),
    Page("compare", "Compare", "/compare", CompareQuery, read_comparison, read_comparison, _comparison_drawing),
    Page("queue", "Queue", "/queue", ViewQuery, read_queue, read_queue),
    Page("workers", "Workers", "/workers", WorkersQuery, read_workers, read_workers),
)
