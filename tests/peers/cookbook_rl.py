"""Reinforcement learning of the official cookbook, its loop unchanged, on environments of our families.

``cookbook_rl.py SETTINGS OUT``: the settings of ``cookbook_rollouts.py``, and ``rank``, ``rate``, ``loss``,
``tokens`` and ``log``. ``OUT`` gets the advantages of each step, as the loop computes them.
"""

import asyncio
import functools
import json
import sys
from pathlib import Path
from typing import Any

import chz
from cookbook_rollouts import Group, backend, environment, settings
from tinker_cookbook.rl import data_processing
from tinker_cookbook.rl.types import EnvGroupBuilder, RLDataset, RLDatasetBuilder

advantages: list[list[list[float]]] = []


class Tasks(RLDataset):
    """The tasks of each step."""

    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        return [Group(task, index + 1, number) for number, task in enumerate(settings["tasks"][index])]

    def __len__(self) -> int:
        return len(settings["tasks"])


@chz.chz
class Builder(RLDatasetBuilder):
    """The tasks, without any for tests."""

    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        return Tasks(), None


def recorded(compute: Any) -> Any:
    """The loop's advantages, which are written down too."""

    @functools.wraps(compute)
    def computed(groups: Any) -> Any:
        found = compute(groups)
        if len(found) == len(settings["tasks"][0]):
            # it is called for single groups too, as they come in
            advantages.append([each.tolist() for each in found])
            Path(sys.argv[2]).write_text(json.dumps(advantages))
        return found

    return computed


data_processing.compute_advantages = recorded(data_processing.compute_advantages)
from tinker_cookbook.rl import train  # noqa: E402 - with the functions above in their places

config = train.Config(
    learning_rate=settings["rate"],
    dataset_builder=Builder(),
    model_name=settings["model"],
    recipe_name="families",
    max_tokens=settings["tokens"],
    log_path=settings["log"],
    renderer_name="role_colon",
    loss_fn=settings["loss"],
    lora_rank=settings["rank"],
    eval_every=0,
    save_every=0,
)


async def main() -> None:
    """Train, with the models that the environment asks."""
    async with backend:
        await environment.open()
        await train.main(config)


asyncio.run(main())
