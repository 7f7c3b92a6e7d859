"""The settings of the ``peft`` backend, and where it finds what it is not told."""

import json
import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from crucible.errors import InvalidRequest
from crucible.record import Record
from nsai_work.home import home_folder

BACKEND: Final = "peft"
MODELS_NAME: Final = "NSAI_WORK_PEFT_MODELS"
TINY: Final = "nsai/tiny-llama"
"""Not a place: a tiny Llama with random weights that follow from its name, made when it is needed."""

_KNOWN: Final = {
    "tiny-lm": TINY,
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "qwen/qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
}


class PeftSettings(Record):
    """``models`` says where a base model's name leads: a folder, or a name on the model hub. Names of other
    backends lead to the same models here; ``NSAI_WORK_PEFT_MODELS`` (a JSON object) adds to them.

    ``home``: the folder of checkpoints; by default ``peft`` in NSAI_WORK_HOME, or in the user's state folder.
    """

    home: Path | None = None
    models: dict[str, str] = Field(default_factory=dict)
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the first GPU, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    """Threads that torch computes with, in the whole process; by default as many as it likes."""
    lora_alpha: int = Field(default=32, ge=1)
    kept_models: int = Field(default=2, ge=1, le=64)
    """How many models stay loaded for completions."""

    @field_validator("models")
    @classmethod
    def _somewhere(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(name and place for name, place in value.items()):
            raise ValueError("neither a name nor a place may be empty")
        return value

    def places(self) -> dict[str, str]:
        """Every known base model, with where it is. Raises InvalidRequest for a variable that is no JSON object."""
        given = os.environ.get(MODELS_NAME, "{}")
        try:
            added = json.loads(given)
        except ValueError:
            added = None
        if not isinstance(added, dict) or not all(isinstance(place, str) for place in added.values()):
            raise InvalidRequest.of(MODELS_NAME, given, "a JSON object of names and places", backend=BACKEND)
        return {**_KNOWN, **added, **self.models}

    def folder(self) -> Path:
        """The folder to keep checkpoints in, resolved now; it need not exist."""
        if self.home is not None:
            return self.home
        return home_folder() / "peft"
