"""A recipe of the official cookbook, unchanged, run as its module.

``cookbook_recipe.py TOKENIZER MODEL MODULE ARGS``. The model's tokenizer is that of the development server, from
its folder, instead of one from a hub. Data sets that the recipe names on a hub are folders of these names in the
working directory.
"""

import functools
import runpy
import sys

from tinker_cookbook.tokenizer_utils import register_tokenizer
from transformers import AutoTokenizer

folder, model, module, *arguments = sys.argv[1:]
register_tokenizer(model, functools.cache(lambda: AutoTokenizer.from_pretrained(folder)))
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
