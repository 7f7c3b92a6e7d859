"""``nsai-work download`` and ``export``: the model of a training job as files."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.model_choice import CheckpointChoice
from nsai_work.cli.output.download_progress import download_progress
from nsai_work.cli.output.stdout import write_fields, write_json
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import existing_store
from nsai_work.files.home import file_name
from nsai_work.files.user_paths import expanded
from nsai_work.identifiers import short_id

if TYPE_CHECKING:
    from nsai_work.client.checkpoints.download import DownloadResult
    from nsai_work.client.checkpoints.job_model import JobModel

MAX_GIB: Final = 64

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", help="New folder. [default: the end of the job's ID, and the checkpoint's step]"),
]
MaxGib = Annotated[int, typer.Option(min=1, max=1_000_000, help="Largest size to download, in GiB.")]


def download(
    job_id: JobId,
    folder: Folder = None,
    checkpoint: CheckpointChoice = None,
    max_gib: MaxGib = MAX_GIB,
    json_output: JsonFlag = False,
) -> None:
    """Download a training job's model into a new folder, as an adapter that PEFT loads.

    The folder appears once it is complete; nothing that exists is changed.
    """
    model = _model(job_id, checkpoint)
    target = _target(folder, model, "")
    done = _download(model, target, max_gib)
    files: dict[str, JsonValue] = {**done.files}
    _write(model, {"folder": str(done.folder), "files": files}, json_output)


def export(
    job_id: JobId,
    folder: Folder = None,
    checkpoint: CheckpointChoice = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base model (needs the extra peft).")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|NAME",
            help="Folder of the base model, or its name at a model hub. [default: the one that the adapter names]",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, float16 or bfloat16; auto: the base model's.")
    ] = "auto",
    max_gib: MaxGib = MAX_GIB,
    json_output: JsonFlag = False,
) -> None:
    """Save full weights of a training job's model in a new folder: the base model with the adapter merged in."""
    from nsai_work.client.checkpoints.download import refuse_existing
    from nsai_work.client.checkpoints.merge import merge as merged_model
    from nsai_work.client.checkpoints.merge import require_merge

    if not merge:
        raise InvalidRequest(
            "--merge: full weights are the base model with the adapter merged in, which takes its size in memory;"
            f" say --merge, or download the adapter alone: nsai-work download {job_id}"
        )
    require_merge()
    model = _model(job_id, checkpoint)
    target = _target(folder, model, "-merged")
    refuse_existing(target)
    with tempfile.TemporaryDirectory(prefix="nsai-work-") as scratch:
        adapter = _download(model, Path(scratch) / "adapter", max_gib).folder
        folder_of_base = base if base is None or not expanded(base).exists() else str(expanded(base).absolute())
        merged = merged_model(adapter, target, base=folder_of_base, dtype=dtype)
    _write(model, {"folder": str(merged.folder), "base": merged.base}, json_output)


def _model(job_id: str, checkpoint: str | None) -> "JobModel":
    from nsai_work.client.checkpoints.job_model import FINAL, model_of_job

    store = existing_store(job_id=job_id)
    return model_of_job(store, find_job(store, job_id), checkpoint or FINAL)


def _target(folder: Path | None, model: "JobModel", suffix: str) -> Path:
    if folder is not None:
        return expanded(str(folder)).absolute()
    return Path.cwd() / f"{short_id(file_name(model.job_id))}-step{model.checkpoint.step}{suffix}"


def _download(model: "JobModel", target: Path, max_gib: int) -> "DownloadResult":
    from nsai_work.client.checkpoints.download import download as download_model

    with download_progress(model.checkpoint.name) as report:
        return download_model(model, target, max_bytes=max_gib << 30, report=report)


def _write(model: "JobModel", fields: dict[str, JsonValue], json_output: bool) -> None:
    found: dict[str, JsonValue] = {
        "job": model.job_id,
        "checkpoint": model.checkpoint.name,
        "step": model.checkpoint.step,
        "base_model": model.base_model,
        **fields,
    }
    if json_output:
        write_json(found)
    else:
        write_fields((name.replace("_", " "), value) for name, value in found.items())
