"""Settings of the PEFT backend."""

import json
import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from crucible.errors import InvalidRequest
from crucible.values.record import Record
from nsai_work.files.home import FolderSetting, home_folder

BACKEND: Final = "peft"
MODELS_VARIABLE: Final = "NSAI_WORK_PEFT_MODELS"
TINY: Final = "nsai/tiny-llama"
"""Source of a tiny Llama that is generated on demand, with random weights derived from the model's name."""

_BUILT_IN: Final = {
    "tiny-lm": TINY,
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "qwen/qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
}


class PeftSettings(Record):
    """Settings. ``home`` is the folder of checkpoints, by default ``peft`` in NSAI_WORK_HOME.

    ``models`` maps names of base models to sources: a folder, or a name on the model hub. It extends the built-in
    names, which other backends share, and those of ``NSAI_WORK_PEFT_MODELS`` (a JSON object).
    """

    home: FolderSetting | None = None
    models: dict[str, str] = Field(default_factory=dict)
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1`` or ``mps``; by default the first GPU, or without one the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    """Number of torch's threads, in the whole process; by default torch's own choice."""
    lora_alpha: int = Field(default=32, ge=1)
    kept_models: int = Field(default=2, ge=1, le=64)
    """Maximum number of models that stay loaded for completions."""

    @field_validator("models")
    @classmethod
    def _not_empty(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(name and source for name, source in value.items()):
            raise ValueError("neither a name nor a source may be empty")
        return value

    def sources(self) -> dict[str, str]:
        """All base models with their sources. Raises InvalidRequest for a malformed variable."""
        variable = os.environ.get(MODELS_VARIABLE, "{}")
        try:
            added = json.loads(variable)
        except ValueError:
            added = None
        if not isinstance(added, dict) or not all(isinstance(source, str) for source in added.values()):
            raise InvalidRequest.of(
                MODELS_VARIABLE, variable, "a JSON object of names and sources", backend=BACKEND
            )
        return {**_BUILT_IN, **added, **self.models}

    def folder(self) -> Path:
        """The folder of checkpoints, resolved by this call; it need not exist."""
        if self.home is not None:
            return self.home
        return home_folder() / "peft"
