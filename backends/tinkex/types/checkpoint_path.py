"""Parsing of ``tinker://`` paths into run, kind and name."""

import re
from enum import StrEnum
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from crucible.errors import InvalidRequest

_SCHEME: Final = "tinker://"
_SCHEMES: Final = (_SCHEME, "twinkle://", "xorl://")
"""The service's own, and those of servers that name checkpoints in its form."""
_PART: Final = re.compile(r"[^/\s?#\x00-\x1f\x7f]+")
_FORM: Final = "the form is tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME"


class CheckpointKind(StrEnum):
    """The purpose of a checkpoint."""

    TRAINING = "training"
    SAMPLER = "sampler"
    EXTERNAL = "external"


_KIND_OF: Final = {
    "weights": CheckpointKind.TRAINING,
    "sampler_weights": CheckpointKind.SAMPLER,
    "external_weights": CheckpointKind.EXTERNAL,
}
_SEGMENT_OF: Final = {kind: segment for segment, kind in _KIND_OF.items()}


class ParsedCheckpointTinkerPath(BaseModel):
    """A parsed tinker path. ``checkpoint_id`` is ``weights/NAME`` or ``sampler_weights/NAME``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointKind
    checkpoint_id: str

    @property
    def name(self) -> str:
        """The name of the save."""
        return self.checkpoint_id.rpartition("/")[2]

    @classmethod
    def from_tinker_path(cls, tinker_path: str, *, field: str = "path") -> Self:
        """Parse a path. ``tinker://RUN/NAME``, the form of some servers for sampling weights, is accepted as such.

        Raises:
            InvalidRequest: naming ``field``, when the text is not a tinker path.
        """
        if not isinstance(tinker_path, str) or not tinker_path.startswith(_SCHEMES):
            raise InvalidRequest.of(field, tinker_path, _FORM, backend="tinkex")
        parts = tinker_path.partition("://")[2].split("/")
        if not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
            raise InvalidRequest.of(field, tinker_path, _FORM, backend="tinkex")
        if len(parts) == 2 and parts[1] not in _KIND_OF:
            parts = [parts[0], "sampler_weights", parts[1]]
        if len(parts) != 3 or parts[1] not in _KIND_OF:
            raise InvalidRequest.of(field, tinker_path, _FORM, backend="tinkex")
        return cls(
            tinker_path=tinker_path,
            training_run_id=parts[0],
            checkpoint_type=_KIND_OF[parts[1]],
            checkpoint_id=f"{parts[1]}/{parts[2]}",
        )

    @classmethod
    def of(cls, training_run_id: str, kind: CheckpointKind, name: str) -> Self:
        """Build a path from its parts. Raises InvalidRequest."""
        return cls.from_tinker_path(f"{_SCHEME}{training_run_id}/{_SEGMENT_OF[kind]}/{name}")
