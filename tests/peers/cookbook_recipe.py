"""A recipe of the official cookbook, unchanged, run as its module.

``cookbook_recipe.py TOKENIZER MODEL MODULE ARGS``. The model's tokenizer is that of the development server, from
its folder, instead of one from a hub. Data sets that the recipe names on a hub are folders of these names in the
working directory. Two recipes reward right answers only, which a random model never has: there the grader is
replaced by one that rewards samples by their length, so that rewards differ and steps learn.
"""

import functools
import runpy
import sys
from typing import Any

from tinker_cookbook.recipes.math_rl import math_grading
from tinker_cookbook.recipes.multiplayer_rl.guess_number import env
from tinker_cookbook.tokenizer_utils import register_tokenizer
from transformers import AutoTokenizer


def answer_to_guess(_game: Any, text: str) -> tuple[env.Message, float]:
    """Reward a guess of even length, which ends the game; each other guess costs as much."""
    return env.Message(role="user", content="Too low"), 1.0 if len(text) % 2 == 0 else -1.0


math_grading.extract_boxed = lambda text: text
math_grading.grade_answer = lambda given, _truth: len(given) % 2 == 0
env.GuessNumberEnv._get_user_turn = answer_to_guess
folder, model, module, *arguments = sys.argv[1:]
register_tokenizer(model, functools.cache(lambda: AutoTokenizer.from_pretrained(folder)))
sys.argv = [module, *arguments]
runpy.run_module(f"tinker_cookbook.recipes.{module}", run_name="__main__", alter_sys=True)
