"""``nsai-work extend``: continues a training job that has ended."""

from typing import Annotated, Literal

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import existing_store, load_settings


def extend(
    job_id: JobId,
    steps: Annotated[int, typer.Option(min=1, help="Number of further steps.")],
    schedule: Annotated[
        Literal["constant", "linear", "cosine"] | None,
        typer.Option(help="The learning rate of these steps: needed if that of the job decays."),
    ] = None,
    warmup_steps: Annotated[int, typer.Option(min=0, help="The warm-up of that schedule.")] = 0,
    checkpoint: Annotated[
        str, typer.Option(help="Where to continue: final, best, latest, or the number of a step.")
    ] = "final",
    json_output: JsonFlag = False,
) -> None:
    """Continue a training job that has ended, as a new job: with its optimizer, data and step numbers."""
    from nsai_work.client.extend import extend as extend_job

    if warmup_steps and schedule is None:
        raise InvalidRequest.of("--warmup-steps", warmup_steps, "it is part of a --schedule")
    settings = load_settings()
    job = find_job(existing_store(settings, job_id=job_id), job_id)
    given = None if schedule is None else {"shape": schedule, "warmup_steps": warmup_steps}
    handle = extend_job(job.id, steps, settings, schedule=given, checkpoint=checkpoint)
    if json_output:
        write_json({"id": handle.id}, indent=None)
    else:
        write_line(handle.id)
