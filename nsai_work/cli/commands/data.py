"""``nsai-work data``: shows how training data is read."""

import asyncio
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import JsonValue
from rich.text import Text

from crucible.errors import InvalidRequest, Unsupported
from crucible.rendering.plain_text import plain_text
from nsai_work.cli.output.stdout import stdout_console, write_fields, write_json, write_table
from nsai_work.cli.parameters import DEFAULT_BACKEND, JsonFlag

if TYPE_CHECKING:
    from nsai_work.data.rendering.rules import Rendering
    from nsai_work.payloads import TrainingStep


def data(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data file, or a job file with data.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Render the rows for this base model of the backend.")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="The backend that has the model.")] = DEFAULT_BACKEND,
    max_tokens: Annotated[int, typer.Option(min=2, help="The longest example.")] = 4096,
    train_on: Annotated[
        str, typer.Option(metavar="MODE", help="The turns that are trained, as data.train_on of a job file.")
    ] = "all_assistant_messages",
    rows: Annotated[int, typer.Option(min=0, help="Show this many rows.")] = 3,
    json_output: JsonFlag = False,
) -> None:
    """Show how training data is read: formats, counts, lengths, and a few rows with the trained text marked.

    Bad rows are counted, and the first of them shown.
    """
    payload, name = _payload(context, file, model, backend, max_tokens, train_on)
    rendering = asyncio.run(_rendering(payload, name)) if payload.base_model != _NO_MODEL else None
    reports = [_report(payload, index, rendering, rows) for index in range(len(payload.data.files()))]
    if json_output:
        write_json(reports[0] if payload.data.path is not None else [*reports])
        return
    for report in reports:
        _show(report)


_NO_MODEL = "-"


def _payload(
    context: typer.Context, file: Path, model: str | None, backend: str, max_tokens: int, train_on: str
) -> "tuple[TrainingStep, str]":
    from nsai_work.client.jobfile import is_job_file, load_job
    from nsai_work.job import Job
    from nsai_work.payloads import TrainingStep

    if is_job_file(file):
        reason = "the job file says this; leave the option out"
        _refuse(context, "model", "backend", "max_tokens", "train_on", because=reason)
        job = load_job(file)
    else:
        if model is None:
            _refuse(context, "backend", "max_tokens", "rows", because="it needs --model, which renders the rows")
        source: dict[str, JsonValue] = {"path": str(file.absolute()), "train_on": train_on}
        payload: dict[str, JsonValue] = {"base_model": model or _NO_MODEL, "data": source, "max_tokens": max_tokens}
        job = Job.parse({"kind": "training_step", "backend": backend, "payload": payload})
    parsed = job.parsed_payload
    if not isinstance(parsed, TrainingStep):
        raise InvalidRequest.of("FILE", str(file), "its job has no training data")
    if any(source.job is not None for source in parsed.data.files()):
        raise InvalidRequest.of("FILE", str(file), "its job reads the rows of another; nsai-work results has these")
    return parsed, job.backend


def _refuse(context: typer.Context, *options: str, because: str) -> None:
    """Refuse options that would change nothing."""
    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise InvalidRequest.of(f"--{option.replace('_', '-')}", context.params[option], because)


async def _rendering(payload: "TrainingStep", name: str) -> "Rendering":
    from crucible.backend import TrainingBackend
    from crucible.registry import installed_backends
    from nsai_work.training.sources.data_source import rendering_of

    backend = installed_backends().load(name)
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"backend: {name!r} does not support training", backend=name)
    async with backend:
        return await rendering_of(payload, backend)


def _report(payload: "TrainingStep", index: int, rendering: "Rendering | None", rows: int) -> dict[str, JsonValue]:
    from nsai_work.cli.output.data_progress import data_progress
    from nsai_work.data.check import count_file
    from nsai_work.data.dataset import new_counts, read_examples
    from nsai_work.data.rendering.preview import preview

    settings = payload.data.model_copy(update={"on_bad_row": "skip"})
    file = settings.files()[index]
    with data_progress() as show:
        report = None if show is None else lambda done, total: show(file.path, done, total)
        counts = count_file(settings, index, rendering, on_progress=report)
    limit = None if rendering is None else rendering.max_tokens
    found: dict[str, JsonValue] = {"path": file.path, **counts.report(limit=limit)}
    if rendering is not None and rows:
        first = [*islice(read_examples(settings, index, new_counts(settings, index)), rows)]
        found["shown"] = preview(first, rendering)
    return found


def _show(report: Mapping[str, Any]) -> None:
    hidden = ("shown", "lengths", "bad_row_problems", "formats", "unused_fields")
    write_fields(
        [
            ("path", report["path"]),
            ("formats", [f"{name} ({count:,} rows)" for name, count in report["formats"].items()]),
            *((name.replace("_", " "), value) for name, value in report.items() if name not in (*hidden, "path")),
            ("unused fields", [f"{name} ({count:,} rows)" for name, count in report["unused_fields"].items()]),
        ]
    )
    console = stdout_console()
    for problem in report["bad_row_problems"]:
        console.print(Text(plain_text(problem), style="red"), soft_wrap=True)
    if report.get("lengths"):
        most = max(row["examples"] for row in report["lengths"])
        bars = [
            (f"{row['from']}-{row['to']}", row["examples"], "#" * -(-40 * row["examples"] // most))
            for row in report["lengths"]
        ]
        write_table(("tokens", "examples", ""), bars, if_empty="")
    for shown in report.get("shown", ()):
        _show_row(shown)


def _show_row(shown: Mapping[str, Any]) -> None:
    text = Text(f"line {shown['line']}: ", style="bold")
    text.append(plain_text(shown.get("problem", "")), style="red")
    for piece in shown.get("pieces", ()):
        weight = piece["weight"]
        style = "strike dim" if weight is None else "not bold black on green" if weight else "not bold"
        # without colours, what is trained stands between marks
        text.append(f"[[{plain_text(piece['text'])}]]" if weight else plain_text(piece["text"]), style=style)
    stdout_console().print(text, soft_wrap=True)
