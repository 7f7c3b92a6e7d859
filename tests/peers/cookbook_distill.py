"""On-policy distillation of the official cookbook, its two loops unchanged, on prompts or environments of ours.

``cookbook_distill.py SETTINGS``: the settings of ``cookbook_rollouts.py``, and ``rank``, ``rate``, ``tokens``,
``log``, and ``from``, a state to begin with, or null. A run with a penalty has ``teachers``, ``sources`` (the
number of its teacher for each task), ``coef`` and ``discount``; one with demonstrations has ``template``, ``top_k``
and ``context``.
"""

import asyncio
from typing import Any

import chz
from cookbook_rollouts import Group, OwnRenderer, backend, environment, settings
from tinker_cookbook import renderers
from tinker_cookbook.distillation import sdft, train_on_policy
from tinker_cookbook.distillation.datasets import DistillationDatasetConfig, TeacherConfig
from tinker_cookbook.rl.types import EnvGroupBuilder, RLDataset, RLDatasetBuilder

common: dict[str, Any] = {
    "model_name": settings["model"],
    "recipe_name": "families",
    "renderer_name": "own",
    "lora_rank": settings["rank"],
    "learning_rate": settings["rate"],
    "max_tokens": settings["tokens"],
    "log_path": settings["log"],
    "load_checkpoint_path": settings["from"],
    "eval_every": 0,
    "save_every": 0,
}


def groups(index: int, source: int | None = None) -> list[EnvGroupBuilder]:
    """The groups of a step, or those of a source among them."""
    return [
        Group(task, index + 1, number)
        for number, task in enumerate(settings["tasks"][index])
        if source is None or settings["sources"][task] == source
    ]


class SourceTasks(RLDataset):
    """The tasks of a source in each step."""

    def __init__(self, source: int) -> None:
        self._source = source

    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        return groups(index, self._source)

    def __len__(self) -> int:
        return len(settings["tasks"])


@chz.chz
class SourceBuilder(RLDatasetBuilder):
    """The tasks of a source, without any for tests."""

    source: int

    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        return SourceTasks(self.source), None


class Demonstrations:
    """The groups of each step with their questions and the answers that the teacher sees."""

    def get_batch(self, index: int) -> tuple[list[EnvGroupBuilder], list[str], list[str]]:
        """The batch of a step."""
        rows = [settings["rows"][task] for task in settings["tasks"][index]]
        return groups(index), [row["prompt"] for row in rows], [row["answer"] for row in rows]

    def __len__(self) -> int:
        return len(settings["tasks"])


async def distilled() -> None:
    """Train with a penalty for the distance from teachers."""
    config = train_on_policy.Config(
        **common,
        dataset_configs=[
            DistillationDatasetConfig(
                dataset_builder=SourceBuilder(source=source),
                teacher_config=TeacherConfig(base_model=teacher),
                groups_per_batch=1,
            )
            for source, teacher in enumerate(settings["teachers"])
        ],
        kl_penalty_coef=settings["coef"],
        kl_discount_factor=settings["discount"],
    )
    await train_on_policy.main(config)


async def demonstrated() -> None:
    """Train on the teacher's tokens, which has seen demonstrations."""
    template = settings["template"].replace("{prompt}", "{question}").replace("{answer}", "{golden_answer}")
    config = sdft.Config(
        **common, topk=settings["top_k"], demo_template=template, max_context_length=settings["context"]
    )
    await sdft.main(config, Demonstrations())


async def main() -> None:
    """Train as the settings say."""
    async with backend:
        await environment.open()
        await (distilled() if "teachers" in settings else demonstrated())


renderers.register_renderer("own", lambda tokenizer, _: OwnRenderer(tokenizer))
asyncio.run(main())
