"""The data that payloads name: prompt files, and training data with the forms of their rows."""

import operator
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from crucible.values.record import Record
from crucible.values.scalars import Name, Real
from nsai_work.payloads.job_inputs import TrainedModel

ShipSetting: TypeAlias = Literal["auto", False]
"""The way of a file to the workers: submit copies it into the blob store (``auto``), or each worker reads it at its
path (``false``)."""


class DataSource(Record):
    """A file of prompts. ``sha256`` pins the content; submit sets it."""

    path: Name = Field(min_length=1)
    format: Literal["auto", "jsonl", "text"] = "auto"
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    ship: ShipSetting = "auto"


Images: TypeAlias = dict[Name, DataSource]
"""The images beside a data file, by the paths in its rows."""

RowFormat: TypeAlias = Literal[
    "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "choices", "prompt"
]

TrainOn: TypeAlias = Literal[
    "last_assistant_message",
    "last_assistant_turn",
    "all_assistant_messages",
    "all_messages",
    "all_tokens",
    "all_user_and_system_messages",
    "customized",
]
Reduction: TypeAlias = Literal["none", "mean"]
"""The treatment of the loss weights of an example: they stay, or are divided by their sum."""


def _current_format(value: object) -> object:
    # jobs of earlier versions: JSON lines, whose rows have one of the forms that are found out
    return "auto" if value == "jsonl" else value


def require_one_origin(
    path: str | None, job: str | None, function: str | None, sha256: str | None, *, more: str = ""
) -> None:
    """Check that rows come either from a path or from another job. Raises ValueError."""
    if (path is None) == (job is None):
        raise ValueError(f"set either path{more}, or job, whose rows are read")
    if function is not None and job is None:
        raise ValueError("map: only the rows of a job are mapped; leave it out")
    if sha256 is not None and job is not None:
        raise ValueError("sha256: the rows of a job are pinned when they are read; leave it out")


class DataFile(Record):
    """A data file: JSON lines, a JSON array, plain text with an example per paragraph, or Parquet; also compressed
    with gzip or zstd. ``format`` is the form of its rows. ``weight`` is its share of a mixture, relative to those
    of the others, and ``teacher`` the model that is distilled on its examples. ``sha256`` pins the content, and
    ``images`` the images beside the file that its rows name; submit sets both. In place of a ``path``, the rows of
    a ``job``, each mapped or dropped by the function ``map``."""

    path: Name = ""
    job: Name | None = Field(default=None, min_length=1, max_length=64)
    map: Name | None = Field(default=None, min_length=1, max_length=1_000)
    format: Annotated[Literal["auto"] | RowFormat, BeforeValidator(_current_format)] = "auto"
    weight: Real = Field(default=1.0, gt=0, le=1e9)
    teacher: TrainedModel | Name | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    ship: ShipSetting = "auto"
    images: Images = Field(default_factory=dict, max_length=10_000, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _require_path_or_job(self) -> "DataFile":
        require_one_origin(self.path or None, self.job, self.map, self.sha256)
        return self


class TrainingData(Record):
    """The data of a training run: a file (``path``), the rows of a ``job``, or a mixture of several (``sources``).

    ``train_on`` says which turns of a conversation have a loss weight; what a row says of a turn itself wins. With
    ``reduction: mean`` the weights of an example are divided by their sum, so that a long answer counts as much as
    a short one. ``on_long`` is what happens to examples that are longer than the limit, ``on_bad_row`` to rows that
    cannot be used. ``ignore`` names fields of rows that are dropped.
    """

    path: Name | None = Field(default=None, min_length=1)
    job: Name | None = Field(default=None, min_length=1, max_length=64)
    map: Name | None = Field(default=None, min_length=1, max_length=1_000)
    format: Annotated[Literal["auto"] | RowFormat, BeforeValidator(_current_format)] = "auto"
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    ship: ShipSetting = "auto"
    images: Images = Field(default_factory=dict, max_length=10_000, exclude_if=operator.not_)
    sources: tuple[DataFile, ...] = Field(default=(), max_length=1_000)
    train_on: TrainOn = "all_assistant_messages"
    reduction: Reduction = "none"
    on_long: Literal["cut", "skip", "error"] = "cut"
    on_bad_row: Literal["error", "skip"] = "error"
    ignore: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _require_path_or_sources(self) -> "TrainingData":
        if self.sources and (self.path is not None or self.job is not None):
            raise ValueError("set either path, job or sources")
        if not self.sources:
            require_one_origin(self.path, self.job, self.map, self.sha256, more=" or sources")
        if self.sources and (self.format != "auto" or self.sha256 is not None or self.ship != "auto" or self.map):
            raise ValueError("format, map, ship and sha256 are those of each of the sources")
        return self

    def files(self) -> tuple[DataFile, ...]:
        """The file, or the sources of the mixture."""
        if self.sources:
            return self.sources
        own = {"format": self.format, "sha256": self.sha256, "ship": self.ship, "images": self.images}
        return (DataFile.model_validate({"path": self.path or "", "job": self.job, "map": self.map, **own}),)

    def with_files(self, files: Sequence[DataFile]) -> "TrainingData":
        """Return these data with other files in the places of theirs."""
        if self.sources:
            return self.model_copy(update={"sources": tuple(files)})
        file = files[0]
        changes: dict[str, object] = {"path": file.path or None, "job": file.job, "map": file.map}
        changes |= {"sha256": file.sha256, "format": file.format, "images": file.images}
        return self.model_copy(update=changes)
