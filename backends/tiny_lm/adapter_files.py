"""A low-rank adapter of the tiny model in the files of PEFT."""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from backends.tiny_lm import safetensors
from backends.tiny_lm.adapter import ALPHA, AdapterShape
from crucible.adapter_files import CONFIG, WEIGHTS


def adapter_files(
    base_model: str, shape: AdapterShape, state: Mapping[str, NDArray[np.generic]]
) -> dict[str, bytes]:
    """The files of an adapter's state by their names; equal states give equal bytes.

    ``lora_A`` is ``[rank, inputs]`` and ``lora_B`` is ``[outputs, rank]``, as PEFT names and stores them.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    for key, value in state.items():
        if key.startswith("w."):
            site, part = key.removeprefix("w.").rsplit(".", 1)
            tensors[f"base_model.model.{site}.{'lora_A' if part == 'down' else 'lora_B'}.weight"] = value.T
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": shape.rank,
        "lora_alpha": ALPHA,
        "target_modules": list(shape.sites),
        "bias": "none",
        "lora_dropout": 0.0,
    }
    return {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: safetensors.pack(tensors, {"format": "pt"})}
