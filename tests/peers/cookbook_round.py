"""The official cookbook's supervised training loop, unchanged, run by the Python of its own environment.

``cookbook_round.py PLAN LOG_FOLDER MAX_STEPS``; run again on the same folder with more steps, the loop resumes from
its own checkpoint. What it measured lies in the folder's ``metrics.jsonl``.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import chz
import tinker
from tinker_cookbook.supervised import train
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder
from tinker_cookbook.tokenizer_utils import register_tokenizer

PLAN = json.loads(Path(sys.argv[1]).read_text())


class Bytes:
    """One token a byte: the development server's tokenizer, as far as the loop asks for one."""

    def encode(self, text: str, **_: Any) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, tokens: list[int], **_: Any) -> str:
        """The text."""
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class Batches(SupervisedDataset):
    """The plan's batches."""

    def get_batch(self, index: int) -> list[tinker.Datum]:
        """One batch as the SDK has it."""
        return [datum(example) for example in PLAN["batches"][index]]

    def __len__(self) -> int:
        return len(PLAN["batches"])

    def set_epoch(self, seed: int = 0) -> None:
        """The order is the plan's."""


@chz.chz
class FromPlan(SupervisedDatasetBuilder):
    """Hands the plan's batches to the loop."""

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        return Batches(), None


def datum(example: dict[str, Any]) -> tinker.Datum:
    """An example as the SDK has it."""
    inputs = {
        "target_tokens": tinker.TensorData(data=example["target_tokens"], dtype="int64"),
        "weights": tinker.TensorData(data=example["weights"], dtype="float32"),
    }
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(example["tokens"]), loss_fn_inputs=inputs)


def main(log_folder: str, max_steps: int) -> None:
    """Train."""
    register_tokenizer(PLAN["base_model"], Bytes)
    config = train.Config(
        log_path=log_folder,
        model_name=PLAN["base_model"],
        recipe_name="peers",
        dataset_builder=FromPlan(),
        learning_rate=PLAN["adam"]["learning_rate"],
        lr_schedule="constant",
        lora_rank=PLAN["rank"],
        save_every=PLAN["save_after"],
        eval_every=0,
        max_steps=max_steps,
    )
    asyncio.run(train.main(config))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[2], int(sys.argv[3]))
