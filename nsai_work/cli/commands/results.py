"""``nsai-work results``: the rows that a job has made, on whatever machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue

from crucible.rendering.plain_text import plain_json
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import existing_store
from nsai_work.files.user_paths import expanded
from nsai_work.presentation.quantities import count_text


def results(
    job_id: JobId,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A new file for the rows; stdout without it.")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Print the rows that a job has made: the answers of a batch, or those of a function, as JSON lines.

    Of a batch that still runs, the answers so far. With --json, one JSON array.
    """
    from nsai_work.client.results import read_results

    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    rows = read_results(store, job)
    if file is not None:
        count = _write(file, rows, json_output)
        write_line(f"{count_text(count, 'row')} in {file}", err=True)
    elif json_output:
        write_json([*rows])
    else:
        for row in rows:
            write_json(row, indent=None)


def _write(file: Path, rows: Iterator[dict[str, JsonValue]], as_array: bool) -> int:
    from nsai_work.inference.output import OutputFile

    path = expanded(str(file))
    with OutputFile(path, field="FILE") as output:
        count = 0
        for count, row in enumerate(rows, start=1):
            before = ("[" if count == 1 else ",") if as_array else ""
            output.write([before.encode() + plain_json(json.dumps(row, ensure_ascii=False)).encode()])
        if as_array:
            output.write([b"]" if count else b"[]"])
        output.publish()
    return count
