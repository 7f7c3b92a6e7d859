"""The cookbook's confidence of a model in answers behind given thoughts, of which true-thinking scores are made.

``cookbook_confidence.py SETTINGS OUT``: ``model``, ``tokenizer`` and ``thoughts``, each a question, a thought and
an answer. ``OUT`` gets the answers' log-probabilities, and the texts between a thought and its answer, and behind.
"""

import asyncio
import json
import math
import sys
from pathlib import Path

import tinker
from cookbook_rollouts import OwnRenderer, settings
from tinker_cookbook.recipes.true_thinking_score import tts
from tinker_cookbook.tokenizer_utils import get_tokenizer


async def confidences() -> list[float]:
    """Ask for all of them."""
    client = await tinker.ServiceClient().create_sampling_client(base_model=settings["model"])
    renderer = OwnRenderer(get_tokenizer(settings["model"]))
    return [await tts.compute_early_exit_confidence(client, renderer, *each) for each in settings["thoughts"]]


logprobs = [math.log(confidence) for confidence in asyncio.run(confidences())]
Path(sys.argv[2]).write_text(json.dumps([logprobs, [tts.EARLY_EXIT_CUE, tts.EARLY_EXIT_SUFFIX]]))
