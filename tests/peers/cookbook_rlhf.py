"""The three stages of the cookbook's RLHF, with its loops, its comparisons and its tournament, on rows of ours.

``cookbook_rlhf.py SETTINGS OUT``: ``model``, ``tokenizer``, ``seed``, ``rank``, ``rate``, ``log``, ``texts`` and
``comparisons`` (the rows of each step), ``tasks`` of each step of reinforcement learning with its ``size`` and
``tokens``. ``OUT`` gets the advantages of each step's groups. Samples have the seeds of our rollouts.
"""

import asyncio
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import chz
import tinker
from cookbook_rollouts import OwnRenderer, Stop, settings
from tinker_cookbook import checkpoint_utils, renderers
from tinker_cookbook.preference.types import (
    Comparison,
    ComparisonRendererFromChatRenderer,
    LabeledComparison,
    PreferenceModelBuilderFromChatRenderer,
)
from tinker_cookbook.rl import data_processing, preference_envs
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, RLDataset, RLDatasetBuilder
from tinker_cookbook.supervised import train as supervised
from tinker_cookbook.supervised.common import datum_from_model_input_weights
from tinker_cookbook.supervised.data import conversation_to_datum
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder
from tinker_cookbook.tokenizer_utils import get_tokenizer

from nsai_work.training.rollouts.episodes.place import RolloutPlace
from tests.families.environments import question

RENDERER = "own"
LENGTH = 512
advantages: list[list[list[float]]] = []
renderers.register_renderer(RENDERER, lambda tokenizer, _: OwnRenderer(tokenizer))
renderer = renderers.get_renderer(RENDERER, get_tokenizer(settings["model"]))
common: dict[str, Any] = {
    "model_name": settings["model"],
    "recipe_name": "families",
    "renderer_name": RENDERER,
    "lora_rank": settings["rank"],
    "learning_rate": settings["rate"],
    "eval_every": 0,
    "save_every": 0,
}


class Rows(SupervisedDataset):
    """The rows of each step."""

    def __init__(self, batches: Sequence[Sequence[Any]], datum_of: Callable[[Any], tinker.Datum]) -> None:
        self._batches, self._datum_of = batches, datum_of

    def get_batch(self, index: int) -> list[tinker.Datum]:
        return [self._datum_of(row) for row in self._batches[index]]

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, seed: int = 0) -> None:
        """The order is given."""


@chz.chz
class RowsBuilder(SupervisedDatasetBuilder):
    """The rows of a stage, without a part for tests."""

    stage: str

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        datum_of = {"texts": datum_of_text, "comparisons": datum_of_comparison}[self.stage]
        return Rows(settings[self.stage], datum_of), None


def datum_of_text(row: Any) -> tinker.Datum:
    """A conversation, as ``chat_sl`` renders it."""
    return conversation_to_datum(row["messages"], renderer, LENGTH)


def datum_of_comparison(row: Any) -> tinker.Datum:
    """A comparison with its label, as ``ChatDatasetBuilderFromComparisons`` renders it."""
    asked, _, first, _, second, _ = row["prompt"]
    [label] = [name for name, share in row["choices"].items() if share]
    labeled = LabeledComparison(Comparison([asked], [first], [second]), label)
    rendered = ComparisonRendererFromChatRenderer(renderer).to_model_input_weights(labeled)
    return datum_from_model_input_weights(*rendered, LENGTH, reduction="none")


class SeededRenderer(OwnRenderer):
    """The renderer of a member, whose sample has a seed."""

    seed: int

    def get_stop_sequences(self) -> Stop:
        stop = Stop(super().get_stop_sequences())
        stop.seed = self.seed
        return stop


@dataclass(frozen=True)
class Group(preference_envs.PairwisePreferenceGroupBuilder):
    """A group of the cookbook's, whose members' samples have seeds."""

    place: RolloutPlace | None = None

    async def make_envs(self) -> Sequence[Env]:
        envs = []
        for member in range(self.num_envs):
            own = SeededRenderer(renderer.tokenizer)
            own.seed = replace(self.place, member=member).sample_seed(0)
            envs.append(preference_envs.PreferenceEnv(self.convo_prefix, own))
        return envs


class Tasks(RLDataset):
    """The tasks of each step."""

    def __init__(self, judge: Any) -> None:
        self._judge = judge

    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        return [
            Group(
                convo_prefix=[{"role": "user", "content": question(task)}],
                policy_renderer=renderer,
                tournament_pattern=preference_envs.TournamentPattern.ALL_PAIRS_BOTH_WAYS,
                preference_model=self._judge,
                num_envs=settings["size"],
                place=RolloutPlace("", settings["seed"], 1, index + 1, number, 0),
            )
            for number, task in enumerate(settings["tasks"][index])
        ]

    def __len__(self) -> int:
        return len(settings["tasks"])


@chz.chz
class TasksBuilder(RLDatasetBuilder):
    """The tasks, judged by a reward model, without any for tests."""

    reward_model: str

    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        build = PreferenceModelBuilderFromChatRenderer(
            renderer_name=RENDERER, model_name=settings["model"], rm_weights_path=self.reward_model
        )
        return Tasks(build()), None


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
from tinker_cookbook.rl import train as rl  # noqa: E402 - with the function above in its place


def log_of(stage: str) -> str:
    """The folder of a stage."""
    return str(Path(settings["log"], stage))


async def main() -> None:
    """The stages, one after the other."""
    for stage in ("texts", "comparisons"):
        builder = RowsBuilder(stage=stage)
        await supervised.main(
            supervised.Config(**common, log_path=log_of(stage), dataset_builder=builder, lr_schedule="linear")
        )
    policy, judge = (checkpoint_utils.get_last_checkpoint(log_of(stage)) for stage in ("texts", "comparisons"))
    await rl.main(
        rl.Config(
            **common,
            log_path=log_of("rl"),
            dataset_builder=TasksBuilder(reward_model=judge.sampler_path),
            load_checkpoint_path=policy.state_path,
            max_tokens=settings["tokens"],
        )
    )


asyncio.run(main())
