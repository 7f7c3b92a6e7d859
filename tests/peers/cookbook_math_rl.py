"""The cookbook's ``math_rl`` with the renderer, the seeds and the reward of a job of ours.

``cookbook_math_rl.py TOKENIZER MODEL SEED GROUPS SIZE OUT ARGS``. The recipe samples without seeds; here its n-th
sample has that of our n-th rollout. ``OUT`` gets the advantages of each step, as the recipe computes them.
"""

import functools
import itertools
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import tinker
from arithmetic import rewarded
from tinker_cookbook import renderers
from tinker_cookbook.recipes.math_rl import arithmetic_env
from tinker_cookbook.renderers.base import ParseTermination, Renderer
from tinker_cookbook.rl import data_processing
from tinker_cookbook.tokenizer_utils import register_tokenizer
from transformers import AutoTokenizer

from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.training.rollouts.episodes.place import RolloutPlace

OURS = ByteTokenizer()


class OwnRenderer(Renderer):
    """Renders and parses as our driver does."""

    def get_stop_sequences(self) -> list[int]:
        return list(OURS.stop_tokens)

    def build_generation_prompt(self, messages: Any, *_: Any, **__: Any) -> tinker.ModelInput:
        turns = [{"role": message["role"], "content": message["content"]} for message in messages]
        return tinker.ModelInput.from_ints(OURS.render_prompt(turns))

    def render_message(self, message: Any, ctx: Any) -> Any:
        raise AssertionError("only whole conversations are rendered here")

    def parse_response(self, response: list[int]) -> tuple[Any, ParseTermination]:
        text = OURS.decode(token for token in response if token not in OURS.stop_tokens)
        return {"role": "assistant", "content": text}, ParseTermination.STOP_SEQUENCE


folder, model, seed, groups, size, out, *arguments = sys.argv[1:]
per_step = int(groups) * int(size)
counted = itertools.count()
advantages: list[list[list[float]]] = []


def with_seed(sample: Any) -> Any:
    """The recipe's samples, each with the seed of our rollout in its place."""

    @functools.wraps(sample)
    def seeded(self: Any, prompt: Any, num_samples: int, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        step, place = divmod(next(counted), per_step)
        group, member = divmod(place, int(size))
        own = RolloutPlace("", int(seed), 1, step + 1, group, member).sample_seed(0)
        return sample(self, prompt, num_samples, sampling_params.model_copy(update={"seed": own}), *args, **kwargs)

    return seeded


def recorded(compute: Any) -> Any:
    """The recipe's advantages, which are written down too."""

    @functools.wraps(compute)
    def computed(trajectory_groups: Any) -> Any:
        found = compute(trajectory_groups)
        if len(found) == int(groups):
            # it is called for single groups too, as they come in
            advantages.append([each.tolist() for each in found])
            Path(out).write_text(json.dumps(advantages))
        return found

    return computed


data_processing.compute_advantages = recorded(data_processing.compute_advantages)
tinker.SamplingClient.sample = with_seed(tinker.SamplingClient.sample)
create = tinker.ServiceClient.create_lora_training_client
tinker.ServiceClient.create_lora_training_client = functools.partialmethod(create, seed=int(seed))
arithmetic_env.ArithmeticEnv.check_answer = lambda _, text: rewarded(text)
renderers.register_renderer("own", lambda tokenizer, _: OwnRenderer(tokenizer))
register_tokenizer(model, functools.cache(lambda: AutoTokenizer.from_pretrained(folder)))
sys.argv = ["math_rl.train", *arguments]
runpy.run_module("tinker_cookbook.recipes.math_rl.train", run_name="__main__", alter_sys=True)
