"""Off-policy distillation of the official cookbook, its loop and its teachers unchanged, on given batches.

``cookbook_off_policy.py SETTINGS`` reads a JSON file: ``student``, ``teacher``, ``top_k``, ``rate``, ``rank``,
``seed``, ``log``, and ``batches`` of ``[tokens, targets, weights]``. The adapter gets a seed, which the cookbook
does not pass on.
"""

import asyncio
import functools
import json
import sys
from pathlib import Path
from typing import Any

import chz
import tinker
from tinker_cookbook.distillation import train_off_policy
from tinker_cookbook.distillation.datasets import TeacherConfig
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder

settings = json.loads(Path(sys.argv[1]).read_text())


class GivenBatches(SupervisedDataset):
    """The batches of the settings, in their order."""

    def get_batch(self, index: int) -> list[tinker.Datum]:
        return [datum_of(*row) for row in settings["batches"][index]]

    def __len__(self) -> int:
        return len(settings["batches"])


@chz.chz
class GivenBuilder(SupervisedDatasetBuilder):
    """The batches of the settings, without a part for tests."""

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        return GivenBatches(), None


def datum_of(tokens: list[int], targets: list[int], weights: list[float]) -> tinker.Datum:
    """An example with one target of each token."""
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens),
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
config = train_off_policy.Config(
    learning_rate=settings["rate"],
    dataset_configs=[
        train_off_policy.DatasetWithTeacher(
            dataset_builder=GivenBuilder(), teacher_config=TeacherConfig(base_model=settings["teacher"])
        )
    ],
    model_name=settings["student"],
    recipe_name="off_policy",
    renderer_name="role_colon",
    lora_rank=settings["rank"],
    n_teacher_targets=settings["top_k"],
    batch_size=len(settings["batches"][0]),
    log_path=settings["log"],
    save_every=0,
    eval_every=0,
)
asyncio.run(train_off_policy.main(config))
