"""``nsai-work plot`` and ``compare``: loss curves in the terminal or as SVG, and jobs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from crucible.errors import InvalidRequest
from crucible.rendering.plain_text import plain_line
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.stdout import stdout_console, write_json, write_line, write_table
from nsai_work.cli.parameters import JobIds, JsonFlag, Tag
from nsai_work.cli.store_access import existing_store
from nsai_work.identifiers import short_id
from nsai_work.presentation.json_forms import as_json

if TYPE_CHECKING:
    from nsai_work.page.views.compare import JobComparison
    from nsai_work.store import Store

WIDTH: Final = 100
HEIGHT: Final = 16

Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write an SVG file, which must not exist yet.")
]


def plot(job_id: JobIds = None, tag: Tag = None, output: Output = None, json_output: JsonFlag = False) -> None:
    """Plot the loss curves of training jobs, in the terminal or as SVG."""
    if json_output and output is not None:
        raise InvalidRequest.of("--output", str(output), "--json prints the curves instead; leave one of them out")
    comparison = _compared(job_id, tag)
    if json_output:
        write_json([{"id": job.line.id, "curve": as_json(job.curve)} for job in comparison.jobs])
    elif output is not None:
        _write_svg(comparison, output)
    else:
        _print(comparison)


def compare(job_id: JobIds = None, tag: Tag = None, json_output: JsonFlag = False) -> None:
    """Compare jobs: what they ended with, and where their configurations differ."""
    comparison = _compared(job_id, tag)
    if json_output:
        write_json(as_json(comparison))
        return
    rewarded = any(job.reward is not None for job in comparison.jobs)
    rows = [
        (
            short_id(job.line.id),
            job.line.status,
            job.steps,
            *([job.reward] if rewarded else []),
            job.loss,
            job.evaluation,
            job.line.name or "",
        )
        for job in comparison.jobs
    ]
    headings: tuple[str, ...] = (
        "ID",
        "STATUS",
        "STEP",
        *(["REWARD"] if rewarded else []),
        "LOSS",
        "EVALUATION",
        "NAME",
    )
    write_table(headings, rows, if_empty="no jobs")
    if comparison.differences:
        write_line()
        headings = ("FIELD", *(short_id(job.line.id) for job in comparison.jobs))
        write_table(headings, [(row.field, *row.values) for row in comparison.differences], if_empty="")
    elif len(rows) > 1:
        write_line("\nno field of their configurations differs")


def _compared(given: list[str] | None, tag: str | None) -> "JobComparison":
    from nsai_work.page.views.compare import MAX_JOBS, CompareQuery, read_comparison

    store = existing_store(job_id=" ".join(given or []) or None)
    ids = _chosen(store, given, tag)
    if len(ids) > MAX_JOBS:
        raise InvalidRequest.of("ID", f"{len(ids)} jobs", f"at most {MAX_JOBS} are compared at once; name them")
    return store.database.read(read_comparison, CompareQuery(id=ids))


def _chosen(store: "Store", given: list[str] | None, tag: str | None) -> list[str]:
    from nsai_work.store.records import JobFilter

    ids = [find_job(store, text).id for text in given or []]
    if tag is not None:
        tagged = [job.id for job in store.list_jobs(JobFilter(tag=tag), limit=1000)]
        if not tagged:
            raise InvalidRequest.of("--tag", tag, "no job has this tag")
        ids += tagged[::-1]
    if not ids:
        raise InvalidRequest("ID: name at least one job, or --tag")
    return [*dict.fromkeys(ids)]


def _labels(comparison: "JobComparison") -> list[str]:
    lines = [job.line for job in comparison.jobs]
    return [plain_line(f"{short_id(line.id)}  {line.name or ''}".rstrip()) for line in lines]


def _print(comparison: "JobComparison") -> None:
    from nsai_work.page.drawing.axes import loss_range
    from nsai_work.presentation.terminal_plot import COLORS, braille_rows

    curves = [[*zip(job.curve.steps, job.curve.loss, strict=True)] for job in comparison.jobs]
    if not any(curves):
        is_over = all(job.line.status.ended for job in comparison.jobs)
        write_line("no steps: every job has ended" if is_over else "no steps yet", err=True)
        return
    console = stdout_console()
    low, high = loss_range(loss for points in curves for _, loss in points)
    ends = [points[-1][0] for points in curves if points]
    last = max([1, *(job.curve.total or 0 for job in comparison.jobs), *ends])
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}
    margin = max(map(len, labels.values()))
    width = max(min(console.width, WIDTH) - margin - 2, 10)
    rows = braille_rows(curves, width=width, height=HEIGHT, x_range=(0, last), y_range=(low, high))
    for index, row in enumerate(rows):
        line = Text(f"{labels.get(index, ''):>{margin}} \u2502")
        for cell in row:
            line.append(cell.text, None if cell.curve is None else COLORS[cell.curve % len(COLORS)])
        console.print(line, soft_wrap=True)
    console.print(f"{'':>{margin}} \u2514" + "\u2500" * width, soft_wrap=True)
    console.print(f"{'0':>{margin + 3}}{last:>{width - 1}}", soft_wrap=True)
    for index, (job, label) in enumerate(zip(comparison.jobs, _labels(comparison), strict=True)):
        ended = "no steps" if job.loss is None else f"loss {job.loss:.4g} at step {job.steps}"
        style = COLORS[index % len(COLORS)]
        console.print(Text.assemble(("\u2501 ", style), f"{label}  {ended}"), soft_wrap=True)


def _write_svg(comparison: "JobComparison", output: Path) -> None:
    from nsai_work.page.drawing.loss_curve import draw_curves
    from nsai_work.page.drawing.svg_document import svg_document

    curves = [*zip(_labels(comparison), (job.curve for job in comparison.jobs), strict=True)]
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(svg_document(draw_curves(curves)))
    except OSError as error:
        raise InvalidRequest.of("--output", str(output), f"cannot be written: {error.strerror}") from error
    write_line(str(output))
