"""The recipes of the cookbook as they are run here: modules, arguments, and data of our own under hub names."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

STEPS: Final = 8
MODEL: Final = "llama-3.2-1b"
HUB_MODEL: Final = "meta-llama/Llama-3.2-1B"
"""A name that the cookbook knows a renderer for; ``rl_loop`` takes no other."""

_COMMON: Final = ("renderer_name=role_colon", "behavior_if_log_dir_exists=delete", f"max_steps={STEPS}")
_MATH: Final = (
    *("env=arithmetic", "group_size=3", "groups_per_batch=2", "eval_every=0", "save_every=4", "learning_rate=0.01"),
    *_COMMON,
)
_CHAT: Final = ("batch_size=2", "learning_rate=0.01", "max_length=512", *_COMMON)
_RECIPES: Final = "tinker_cookbook.recipes"

RECIPES: Final[dict[str, tuple[str, ...]]] = {
    "chat_sl": (f"{_RECIPES}.chat_sl.train", "dataset=chats.jsonl", "eval_every=0", "save_every=4", *_CHAT),
    "rl_loop": (
        *(f"{_RECIPES}.rl_loop", "batch_size=2", "group_size=3", f"max_steps={STEPS}", "save_every=4"),
        *("max_tokens=8", "learning_rate=0.01"),
    ),
    "dpo": (f"{_RECIPES}.preference.dpo.train", "dataset=hhh", *_CHAT),
    **{
        f"math_rl {loss}": (f"{_RECIPES}.math_rl.train", f"loss_fn={loss}", *_MATH)
        for loss in ("importance_sampling", "ppo", "cispo", "stable_reinforce")
    },
}
"""The module and the arguments of each recipe."""


def write_data(folder: Path) -> None:
    """Write the data sets of the recipes, as folders by their hub names, for a program that runs in ``folder``."""
    chats = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": str(n)}]}
        for n in range(40)
    ]
    _write_rows(folder / "chats.jsonl", chats)
    questions = [{"question": f"What is {n} plus 2?", "answer": f"So\n#### {n + 2}"} for n in range(40)]
    _write_data_set(folder / "openai" / "gsm8k", "main", questions)
    pairs = [
        {"chosen": f"\n\nHuman: Say {n}.\n\nAssistant: {n}", "rejected": f"\n\nHuman: Say {n}.\n\nAssistant: No"}
        for n in range(40)
    ]
    _write_data_set(folder / "Anthropic" / "hh-rlhf", "default", pairs)


def _write_data_set(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    splits = ("train", "test")
    for split in splits:
        _write_rows(folder / f"{split}.jsonl", rows)
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n")


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
