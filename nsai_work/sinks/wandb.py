"""The sink of Weights & Biases: a run for each segment of a job, in a group of the job's."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, JsonValue

from crucible.values.record import Record
from crucible.values.record_reader import read_record
from crucible.values.scalars import Name
from nsai_work.files.home import FolderSetting, file_name, make_private_folder
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment

PROJECT: Final = "nsai-work"


class WandbSettings(Record):
    """``mode`` offline writes files that ``wandb sync`` sends later. What is not set is as the worker's settings of
    W&B say (``WANDB_PROJECT``, ``WANDB_MODE``), as is the key."""

    project: Name | None = Field(default=None, min_length=1, max_length=128)
    entity: Name | None = Field(default=None, min_length=1, max_length=128)
    mode: Literal["online", "offline"] | None = None
    folder: FolderSetting | None = None


class WandbSink(Sink):
    """Logs points. A point that a worker logged as it died is logged again at its step, with the same value."""

    requires: ClassVar[tuple[str, ...]] = ("wandb",)
    keeps_after_s: ClassVar[float] = 30.0  # it stores and sends every 15 s, and ends with the worker

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        self._settings = read_record(WandbSettings, dict(settings))
        self._run: Any = None

    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        import wandb

        settings, of_worker = self._settings, wandb.setup().settings
        mode = settings.mode or of_worker.mode
        name = run.name or run.job_id
        self._run = wandb.init(
            project=settings.project or of_worker.project or PROJECT,
            entity=settings.entity,
            mode=mode,
            dir=str(make_private_folder(settings.folder or run.folder)),
            id=f"{file_name(run.job_id)}-{segment.number}",
            group=run.job_id,
            name=name if segment.number == 1 else f"{name} (segment {segment.number}, {segment.resume.value})",
            config={**run.config, "segment": segment.number, "from_step": segment.from_step},
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_disable_stats=True,
                disable_git=True,
                x_transaction_log_flush_interval=1.0,
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return SinkProgress()

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({**point.metrics, "step": point.step})

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish()
