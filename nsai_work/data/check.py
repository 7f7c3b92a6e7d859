"""Checks a data file: reads all of it, and renders it, without keeping what was read."""

from nsai_work.data.dataset import Progress, new_counts, read_examples
from nsai_work.data.rendering.rules import Rendering
from nsai_work.data.row_counts import RowCounts
from nsai_work.payloads import TrainingData


def check_file(
    data: TrainingData, index: int, rendering: Rendering | None, *, on_progress: Progress | None = None
) -> RowCounts:
    """Read a file of the data and count what is found; blocking.

    Raises:
        InvalidJob, FileUnusable: rows are bad, none can be used, or the file cannot be read.
        DataChanged: the content does not match the pinned digest.
    """
    counts = count_file(data, index, rendering, on_progress=on_progress)
    if rendering is not None and not counts.examples:
        raise counts.bad.error("every row was skipped; at least one is required")
    return counts


def count_file(
    data: TrainingData, index: int, rendering: Rendering | None, *, on_progress: Progress | None = None
) -> RowCounts:
    """``check_file`` for a file of which no row may be left."""
    counts = new_counts(data, index)
    for example in read_examples(data, index, counts, on_progress=on_progress):
        if rendering is not None:
            rendering.datums(example, counts)
    return counts
