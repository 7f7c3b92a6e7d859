"""Full weights: a base model with a downloaded adapter merged into it (extra ``peft``)."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crucible.adapter_files import read_adapter_config
from crucible.errors import InvalidRequest, Unsupported
from nsai_work.client.checkpoints.download import new_folder

_PACKAGES: Final = ("torch", "transformers", "peft", "safetensors")
DTYPES: Final = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A folder with full weights, and the base model that they are of."""

    folder: Path
    base: str


def require_merge() -> None:
    """Check that the packages for merging are installed. Raises Unsupported, which says how to install them."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unsupported(
            f"--merge needs {', '.join(missing)}, not installed here: pip install 'nsai-work[peft]'",
            details={"field": "--merge"},
        )


def merge(adapter: Path, target: Path, *, base: str | None, dtype: str = "auto") -> MergedModel:
    """Merge the adapter in a folder into its base model, and save the result with its tokenizer in a new folder.

    ``base`` is a folder or a name of a model hub; by default it is what the adapter names. ``dtype`` is that of the
    weights; ``auto`` is the base model's.

    Raises:
        InvalidRequest: the target exists or cannot be made, the adapter names no base model, the base model cannot
            be loaded, or the adapter is not one of it.
        Unsupported: a package is missing.
    """
    require_merge()
    if dtype not in DTYPES:
        raise InvalidRequest.of("--dtype", dtype, f"allowed are {', '.join(DTYPES)}")
    source = base or read_adapter_config(adapter).base_model
    if not source:
        raise InvalidRequest("--base: the adapter does not name its base model; give its folder or its name")
    if Path(source).is_absolute() and not (Path(source) / "config.json").is_file():
        # a hub would be asked for it
        raise InvalidRequest.of("--base", source, "it is no folder of a model: it has no config.json")
    with new_folder(target) as draft:
        model = _merged(adapter, source, dtype)
        model.save_pretrained(str(draft), safe_serialization=True)
        _save_tokenizer(source, draft)
    return MergedModel(target, source)


def _merged(adapter: Path, source: str, dtype: str) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as error:
        raise InvalidRequest.of("--base", source, f"it cannot be loaded: {error}") from error
    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise InvalidRequest.of("--base", source, f"the adapter does not fit it: {error}") from error


def _save_tokenizer(source: str, folder: Path) -> None:
    """Save the base model's tokenizer beside the weights, if it has one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError):
        return
    tokenizer.save_pretrained(str(folder))
