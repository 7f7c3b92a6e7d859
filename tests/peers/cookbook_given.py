"""A data set of the cookbook that has given batches, and its training clients with a given seed of the adapter.

The program's argument is a JSON file: ``seed``, which the cookbook does not pass on, and ``batches`` of examples:
``[tokens, targets, trained]``, and images if there are any, each of them ``[place, length, format, base64]``. For
each target, ``trained`` has 1 if it has a loss weight, else 0; the cookbook makes the weights of that, by the
``reduction`` of the settings, if it is there.
"""

import functools
import json
import sys
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chz
import tinker
import torch
from tinker_cookbook.supervised.common import datum_from_model_input_weights
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder

settings = json.loads(Path(sys.argv[1]).read_text())


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


def datum_of(
    tokens: list[int], targets: list[int], trained: list[float], images: Sequence[Any] = ()
) -> tinker.Datum:
    """An example with one target of each token."""
    whole = [*tokens, targets[-1]]
    chunks: list[Any] = []
    begin = 0
    for place, length, kind, data in images:
        chunks.append(tinker.EncodedTextChunk(tokens=whole[begin:place]))
        chunks.append(tinker.types.ImageChunk(data=b64decode(data), format=kind, expected_tokens=length))
        begin = place + length
    chunks.append(tinker.EncodedTextChunk(tokens=whole[begin:]))
    marks = torch.tensor([0.0, *trained])
    reduction = settings.get("reduction", "none")
    return datum_from_model_input_weights(tinker.ModelInput(chunks=chunks), marks, reduction=reduction)


def seed_adapters() -> None:
    """Have every training client made with the seed of the settings."""
    for name in ("create_lora_training_client", "create_lora_training_client_async"):
        setattr(tinker.ServiceClient, name, _seeded(getattr(tinker.ServiceClient, name)))


def _seeded(create: Any) -> Any:
    @functools.wraps(create)
    def created(*args: Any, **kwargs: Any) -> Any:
        return create(*args, **{"seed": settings["seed"], **kwargs})

    return created
