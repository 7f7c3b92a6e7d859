"""The reasons why jobs wait, with the numbers of jobs."""

from collections.abc import Iterable

from nsai_work.page.views.view import View
from nsai_work.store.records import WaitCount


class WaitLine(View):
    """A reason why jobs wait, and their number."""

    reason: str
    jobs: int


def wait_lines(waits: Iterable[WaitCount]) -> list[WaitLine]:
    """The lines of the reasons."""
    return [WaitLine(reason=wait.reason, jobs=wait.jobs) for wait in waits]
