"""The recipes of the cookbook as they are run here: modules, arguments, and data of our own under hub names."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

STEPS: Final = 8
MODEL: Final = "llama-3.2-1b"
HUB_MODEL: Final = "meta-llama/Llama-3.2-1B"
"""A name that the cookbook knows a renderer for; ``rl_loop`` takes no other."""

_PLAIN: Final = ("behavior_if_log_dir_exists=delete", f"max_steps={STEPS}")
_COMMON: Final = ("renderer_name=role_colon", *_PLAIN)
# with a stop of one token, some samples of a random model end in form, so that rewards differ and steps learn
_ENDING: Final = ("renderer_name=llama3", "max_tokens=64", *_PLAIN)
_MATH: Final = (
    *("env=arithmetic", "group_size=3", "groups_per_batch=2", "eval_every=0", "save_every=4", "learning_rate=0.01"),
    *_ENDING,
)
_CHAT: Final = ("batch_size=2", "learning_rate=0.01", "max_length=512", *_COMMON)
_ROLLOUTS: Final = (
    *("group_size=2", "groups_per_batch=2", "max_tokens=8", "eval_every=0", "save_every=4", "learning_rate=0.01"),
    *_COMMON,
)
_LOOP: Final = (
    *("batch_size=2", "group_size=3", f"max_steps={STEPS}", "save_every=4", "max_tokens=8", "learning_rate=0.01"),
)
_SDFT: Final = (*_ROLLOUTS, "dataset=sciknoweval", "topk=4", "teacher_sync_every=2")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A module of the cookbook's recipes, and the arguments and the model that it is given."""

    module: str
    arguments: tuple[str, ...]
    model: str = MODEL


RECIPES: Final = {
    "chat_sl": Recipe("chat_sl.train", ("dataset=chats.jsonl", "eval_every=0", "save_every=4", *_CHAT)),
    "dpo": Recipe("preference.dpo.train", ("dataset=hhh", *_CHAT)),
    **{
        f"rl_loop {loss}": Recipe("rl_loop", (f"loss_fn={loss}", *_LOOP), HUB_MODEL)
        for loss in ("stable_reinforce", "gspo")
    },
    **{
        f"math_rl {loss}": Recipe("math_rl.train", (f"loss_fn={loss}", *_MATH))
        for loss in ("importance_sampling", "ppo", "cispo", "stable_reinforce", "gspo")
    },
    # one rollout at a time: with more, which weights a sample comes from is a matter of time
    "math_rl async": Recipe("math_rl.train", ("max_steps_off_policy=0", *_MATH, "groups_per_batch=1")),
    "guess_number": Recipe(
        "multiplayer_rl.guess_number.train",
        (
            "group_size=2",
            "batch_size=2",
            "eval_every=0",
            "save_every=4",
            "learning_rate=0.01",
            *_ENDING,
            "max_tokens=8",
        ),
    ),
    "off-policy distillation": Recipe(
        "distillation.off_policy_reasoning",
        ("buffer_size=8", "max_prompts=40", "eval_every=0", "save_every=4", *_CHAT),
    ),
    "on-policy distillation": Recipe(
        "distillation.on_policy_distillation", ("teacher_model=llama-3.2-3b", *_ROLLOUTS)
    ),
    "sdft": Recipe("sdft.train", _SDFT),
    "sdft reverse": Recipe("sdft.train", ("reverse=true", *_SDFT)),
}
"""The recipes that are compared; ``sdft`` with a teacher that is set to the student every second step."""

_LLAMA_MARKERS: Final = {
    "<|end|>": "<|eot_id|>",
    "<|reserved_263|>": "<|begin_of_text|>",
    "<|reserved_264|>": "<|start_header_id|>",
    "<|reserved_265|>": "<|end_header_id|>",
}


def write_llama_tokenizer(source: Path, folder: Path) -> Path:
    """Copy a tokenizer of the development server with the markers that the renderer ``llama3`` writes."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        text = file.read_text()
        for ours, theirs in _LLAMA_MARKERS.items():
            text = text.replace(ours, theirs)
        (folder / file.name).write_text(text)
    return folder


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
    turns = [
        {"conversations": [{"from": "human", "value": f"Say {n}."}, {"from": "gpt", "value": str(n)}]}
        for n in range(40)
    ]
    _write_data_set(folder / "open-thoughts" / "OpenThoughts3-1.2M", "default", turns)
    _write_data_set(folder / "zwhe99" / "DeepMath-103K", "default", questions)
    choices = [
        {
            "domain": "Chemistry", "details": {"level": "L3"}, "type": "mcq-4-choices",
            "question": f"What is {n} plus 2?", "answerKey": "A",
            "choices": {"label": ["A", "B"], "text": [str(n + 2), str(n)]},
        }
        for n in range(40)
    ]  # fmt: skip
    _write_data_set(folder / "hicai-zju" / "SciKnowEval", "default", choices)


def _write_data_set(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    splits = ("train", "test")
    for split in splits:
        _write_rows(folder / f"{split}.jsonl", rows)
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n")


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
