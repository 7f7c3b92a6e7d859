"""Checkpoints of the PEFT backend: the adapter in PEFT's format, optimizer and random state as safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from backends.local.checkpoints import CheckpointInfo, CheckpointStore
from backends.peft.bases import Bases, import_torch
from backends.peft.engine import PeftEngine
from backends.peft.settings import PeftSettings
from crucible.adapter_files import CONFIG, WEIGHTS

_OPTIMIZER: Final = "optimizer.safetensors"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")


class PeftCheckpoints(CheckpointStore[PeftEngine]):
    """The PEFT backend's checkpoints in a folder."""

    def __init__(self, settings: PeftSettings, bases: Bases) -> None:
        super().__init__("peft", settings.folder())
        self._lora_alpha = settings.lora_alpha
        self._bases = bases

    def _write(self, engine: PeftEngine, folder: Path, *, optimizer: bool) -> None:
        from safetensors.torch import save_file

        # by default PEFT queries the model hub for the size of the embedding
        engine.model.save_pretrained(str(folder), save_embedding_layers=False)
        if not optimizer:
            return
        tensors = {"random_state": engine.random_state}
        for name, value in engine.trained.items():
            for moment, tensor in engine.optimizer.state.get(value, {}).items():
                tensors[f"{moment}/{name}"] = tensor.contiguous()
        save_file(tensors, str(folder / _OPTIMIZER))

    def _adapter_files(self, folder: Path, info: CheckpointInfo) -> Mapping[str, bytes | Path]:
        return {CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS}

    def _read(self, folder: Path, info: CheckpointInfo, *, optimizer: bool) -> PeftEngine:
        import_torch()
        from peft import set_peft_model_state_dict

        weights = _read_tensors(folder / WEIGHTS)
        moments = _read_tensors(folder / _OPTIMIZER) if optimizer else {}
        engine = PeftEngine(info.spec, self._bases, self._lora_alpha)
        refused = set_peft_model_state_dict(engine.model, weights).unexpected_keys
        if refused or len(weights) != len(engine.trained):
            raise ValueError(
                f"the adapter's weights do not match the model's: {len(weights)} of {len(engine.trained)}"
            )
        if optimizer:
            _restore(engine, moments)
        return engine


def _restore(engine: PeftEngine, moments: Mapping[str, Any]) -> None:
    engine.random_state = moments["random_state"]
    if len(moments) == 1:  # saved before the first step
        return
    for name, value in engine.trained.items():
        saved = {moment: moments[f"{moment}/{name}"] for moment in _MOMENTS}
        engine.optimizer.state[value] = {
            moment: tensor if moment == "step" else tensor.to(value.device) for moment, tensor in saved.items()
        }


def _read_tensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(str(file))
    except SafetensorError as exc:
        raise ValueError(f"{file.name}: {exc}") from exc
    return tensors
