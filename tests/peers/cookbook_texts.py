"""Supervised and preference training of the official cookbook, its loops unchanged, on given batches.

``cookbook_texts.py SETTINGS`` reads a JSON file: ``model``, ``rate``, ``rank``, ``seed``, ``schedule``, ``log``,
``beta`` of a preference or null, and ``batches`` of ``[tokens, targets, weights, images]``, where an image is
``[place, length, format, base64]``. The adapter gets a seed, which the cookbook does not pass on.
"""

import asyncio
import functools
import json
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import chz
import tinker
from tinker_cookbook.preference import train_dpo
from tinker_cookbook.supervised import train
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder
from tinker_cookbook.tokenizer_utils import register_tokenizer

settings = json.loads(Path(sys.argv[1]).read_text())


class Bytes:
    """One token a byte: the development server's tokenizer, as far as the loop asks for one."""

    def encode(self, text: str, **_: Any) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, tokens: list[int], **_: Any) -> str:
        """The text."""
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class GivenBatches(SupervisedDataset):
    """The batches of the settings, in their order."""

    def get_batch(self, index: int) -> list[tinker.Datum]:
        return [datum_of(*row) for row in settings["batches"][index]]

    def __len__(self) -> int:
        return len(settings["batches"])

    def set_epoch(self, seed: int = 0) -> None:
        """The order is given."""


@chz.chz
class GivenBuilder(SupervisedDatasetBuilder):
    """The batches of the settings, without a part for tests."""

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        return GivenBatches(), None


def datum_of(tokens: list[int], targets: list[int], weights: list[float], images: list[Any]) -> tinker.Datum:
    """An example with one target of each token."""
    chunks: list[Any] = []
    begin = 0
    for place, length, kind, data in images:
        chunks.append(tinker.EncodedTextChunk(tokens=tokens[begin:place]))
        chunks.append(tinker.types.ImageChunk(data=b64decode(data), format=kind, expected_tokens=length))
        begin = place + length
    chunks.append(tinker.EncodedTextChunk(tokens=tokens[begin:]))
    return tinker.Datum(
        model_input=tinker.ModelInput(chunks=chunks),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData(data=targets, dtype="int64", shape=[len(targets)]),
            "weights": tinker.TensorData(data=weights, dtype="float32", shape=[len(weights)]),
        },
    )


def seeded(create: Any) -> Any:
    """The creation of a training client, with the adapter's seed."""

    @functools.wraps(create)
    def created(*args: Any, **kwargs: Any) -> Any:
        return create(*args, **{"seed": settings["seed"], **kwargs})

    return created


for name in ("create_lora_training_client", "create_lora_training_client_async"):
    setattr(tinker.ServiceClient, name, seeded(getattr(tinker.ServiceClient, name)))
register_tokenizer(settings["model"], Bytes)
common = {
    "log_path": settings["log"],
    "model_name": settings["model"],
    "recipe_name": "families",
    "dataset_builder": GivenBuilder(),
    "learning_rate": settings["rate"],
    "lr_schedule": settings["schedule"],
    "lora_rank": settings["rank"],
    "save_every": 0,
    "eval_every": 0,
}
if settings["beta"] is None:
    asyncio.run(train.main(train.Config(**common)))
else:
    train_dpo.main(train_dpo.Config(**common, dpo_beta=settings["beta"], infrequent_eval_every=0))
