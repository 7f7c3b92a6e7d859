"""The cookbook's own scores of answers that a job of ours has sampled.

``cookbook_scores.py ROLLOUTS SETTINGS MODEL SIZE``: the rollouts of ``environment_job.py``, and the settings of
their environment. Prints the total rewards of each group, as the cookbook computes them, and checks its prompts.
"""

import asyncio
import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs
from tinker_cookbook.rl.rollouts import do_single_rollout
from tinker_cookbook.rl.types import TrajectoryGroup

from crucible.environments.cookbook.renderer import OWN_RENDERER, register
from crucible.rendering.tokenizer import ByteTokenizer


class Replayed(TokenCompleter):
    """Answers as a rollout of ours did, to the prompts that it had."""

    def __init__(self, rollout: dict[str, Any]) -> None:
        self.turns = iter(zip(rollout["prompts"], rollout["samples"], strict=True))

    async def __call__(self, model_input: Any, stop: Any, *, max_tokens: int | None = None) -> TokensWithLogprobs:
        prompt, (tokens, logprobs, stopped) = next(self.turns)
        assert model_input.to_ints() == prompt
        return TokensWithLogprobs(tokens, logprobs, "stop" if stopped else "length")


def built(spec: dict[str, Any], **filled: Any) -> Any:
    """A builder, made without any of the adapter's code."""
    module, _, name = spec["builder"].partition(":")
    args = {
        key: built(value) if isinstance(value, dict) and "builder" in value else value
        for key, value in spec.get("args", {}).items()
    }
    return getattr(importlib.import_module(module), name)(**args, **filled)


async def scored(rollouts: list[dict[str, Any]], settings: dict[str, Any], model: str, size: int) -> Any:
    """The total rewards and the metrics of each group."""
    prefix = "policy_" if "preference" in settings["builder"] else ""
    of_model = f"{prefix}model_name" if prefix else "model_name_for_tokenizer"
    filled = {of_model: model, f"{prefix}renderer_name": OWN_RENDERER, "batch_size": 1, "group_size": size}
    data, _ = await built(settings, **filled)()
    found = []
    for _, members in itertools.groupby(rollouts, lambda each: (each["step"], each["group"])):
        group = list(members)
        builder = data.get_batch(group[0]["task"])[0]
        envs = await builder.make_envs()
        trajectories = [await do_single_rollout(Replayed(own), env) for own, env in zip(group, envs, strict=True)]
        rewards, metrics = zip(*await builder.compute_group_rewards(trajectories, envs), strict=True)
        totals = TrajectoryGroup(trajectories, list(rewards), list(metrics)).get_total_rewards()
        last = [{**each.transitions[-1].metrics, **own} for each, own in zip(trajectories, metrics, strict=True)]
        found.append({"rewards": totals, "metrics": last})
    return found


if __name__ == "__main__":
    given, environment, base_model, group_size = sys.argv[1:]
    register(base_model, ByteTokenizer())
    loaded = [json.loads(Path(each).read_text()) for each in (given, environment)]
    print(json.dumps(asyncio.run(scored(*loaded, base_model, int(group_size)))))  # noqa: T201
