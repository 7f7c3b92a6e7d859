"""The folder of a downloaded adapter: the files that PEFT loads, and the check that they are there."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, ValidationError

from crucible.errors import MalformedAnswer

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_CONFIG_BYTES: Final = 16 << 20


class AdapterSettings(BaseModel):
    """The fields of an adapter's configuration that are read; it has many more."""

    peft_type: Literal["LORA"]
    rank: Annotated[int, Field(ge=1, alias="r")]
    base_model: Annotated[str | None, Field(alias="base_model_name_or_path")] = None
    """The name or the folder of the base model; None or empty for one that is generated."""


def read_adapter_config(folder: Path, *, backend: str | None = None) -> AdapterSettings:
    """Read the configuration of the adapter in a folder.

    Raises:
        MalformedAnswer: a file of the adapter is missing, or the configuration is no LoRA adapter's.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise MalformedAnswer(f"the adapter has no file {name}", backend=backend)
    try:
        with (folder / CONFIG).open("rb") as file:
            return AdapterSettings.model_validate_json(file.read(MAX_CONFIG_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise MalformedAnswer(f"{CONFIG}: {place}: {first['msg']}", backend=backend) from None
