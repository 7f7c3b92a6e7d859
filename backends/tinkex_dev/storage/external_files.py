"""Weights as files for use elsewhere: a low-rank adapter in the folder layout of PEFT."""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.storage.records import StoredCheckpoint
from backends.tiny_lm import safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_ALPHA = 32


def external_files(record: StoredCheckpoint, state: Mapping[str, NDArray[np.generic]]) -> dict[str, bytes]:
    """The files of a checkpoint by their relative paths; equal checkpoints give equal bytes.

    ``lora_A`` is ``[rank, inputs]`` and ``lora_B`` is ``[outputs, rank]``, as PEFT names and stores them.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    for key, value in state.items():
        if key.startswith("w."):
            site, part = key.removeprefix("w.").rsplit(".", 1)
            tensors[f"base_model.model.{site}.{'lora_A' if part == 'down' else 'lora_B'}.weight"] = value.T
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": record.base_model,
        "r": record.lora.rank,
        "lora_alpha": _ALPHA,
        "target_modules": list(record.lora.shape.sites),
        "bias": "none",
        "lora_dropout": 0.0,
    }
    return {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: safetensors.pack(tensors, {"format": "pt"})}
