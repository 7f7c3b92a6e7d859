"""Supervised and preference training of the official cookbook, its loops unchanged, on given batches.

``cookbook_texts.py SETTINGS`` reads a JSON file: ``model``, ``rate``, ``rank``, ``schedule``, ``log``, ``beta`` of
a preference or null, and what ``cookbook_given.py`` reads.
"""

import asyncio
from typing import Any

from cookbook_given import GivenBuilder, seed_adapters, settings
from tinker_cookbook.preference import train_dpo
from tinker_cookbook.supervised import train
from tinker_cookbook.tokenizer_utils import register_tokenizer


class Bytes:
    """One token a byte: the development server's tokenizer, as far as the loop asks for one."""

    def encode(self, text: str, **_: Any) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, tokens: list[int], **_: Any) -> str:
        """The text."""
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


seed_adapters()
register_tokenizer(settings["model"], Bytes)
common = {
    "log_path": settings["log"],
    "model_name": settings["model"],
    "recipe_name": "families",
    "dataset_builder": GivenBuilder(),
    "learning_rate": settings["rate"],
    "lr_schedule": settings["schedule"],
    "lora_rank": settings["rank"],
    "save_every": 0,
    "eval_every": 0,
}
if settings["beta"] is None:
    asyncio.run(train.main(train.Config(**common)))
else:
    train_dpo.main(train_dpo.Config(**common, dpo_beta=settings["beta"], infrequent_eval_every=0))
