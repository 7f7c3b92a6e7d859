"""The cookbook's recipe ``chat_sl``, unchanged, that saves every 20 steps and goes on from its last save."""

import json
import os
from pathlib import Path
from typing import Any, Final

from peer_environment import REPOSITORY

from backends.tinkex_dev.server import DEV_KEY
from ettr_subjects.loop_process import LoopProcess
from ettr_subjects.timing import Result

MODEL: Final = "llama-3.2-1b"
BATCH: Final = 8
RECIPE: Final = """
import functools, runpy, sys
from tinker_cookbook.tokenizer_utils import register_tokenizer
from transformers import AutoTokenizer
folder, model = sys.argv[1:3]
register_tokenizer(model, functools.cache(lambda: AutoTokenizer.from_pretrained(folder)))
sys.argv = ["chat_sl", *sys.argv[3:]]
runpy.run_module("tinker_cookbook.recipes.chat_sl.train", run_name="__main__", alter_sys=True)
"""
"""The recipe, with the development server's tokenizer in the place of one from a hub."""


class CookbookRun(LoopProcess):
    """The recipe in a process of its own. Each row of its metrics is a result, at the time when it is written."""

    def __init__(self, folder: Path, url: str, python: Path, steps: int) -> None:
        super().__init__(folder)
        self._url = url
        self._python = python
        self._steps = steps
        self._seen: list[Result] = []
        self._losses: dict[int, float] = {}
        self._rows: list[str] = []
        self._changed_at = 0
        rows = (REPOSITORY / "examples" / "conversations.jsonl").read_text().splitlines()
        self._data = folder / "chats.jsonl"
        self._data.write_text("\n".join((rows * (steps * BATCH // len(rows) + 1))[: steps * BATCH]) + "\n")

    def command(self) -> list[str | Path]:
        """The recipe's command."""
        [tokenizer] = (self.folder / "server" / "tokenizers").glob("*/*")
        options = {
            "model_name": MODEL,
            "log_path": self.folder / "log",
            "dataset": self._data,
            "renderer_name": "role_colon",
            "behavior_if_log_dir_exists": "resume",
            "batch_size": BATCH,
            "lora_rank": 16,
            "learning_rate": 0.01,
            "max_length": 512,
            "max_steps": self._steps,
            "save_every": 20,
            "eval_every": 0,
        }
        arguments = [f"{name}={value}" for name, value in options.items()]
        return [self._python, "-W", "ignore", "-c", RECIPE, tokenizer, MODEL, *arguments]

    def environment(self) -> dict[str, str]:
        """Its environment: no hub, no telemetry."""
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(self.folder / "hub")}
        service = {"TINKER_BASE_URL": self._url, "TINKER_API_KEY": DEV_KEY, "TINKER_TELEMETRY": "0"}
        return os.environ | offline | service

    def has_ended(self) -> bool:
        """Also looks for new results, which have no times of their own."""
        self._look()
        return super().has_ended()

    def results(self) -> list[Result]:
        """All rows of metrics that ever were: the recipe removes those after its last save when it goes on."""
        self._look()
        return self._seen

    def losses(self) -> list[float]:
        """The last loss of each step."""
        self._look()
        return [self._losses[step] for step in sorted(self._losses)]

    def _look(self) -> None:
        metrics = self.folder / "log" / "metrics.jsonl"
        try:
            changed_at = metrics.stat().st_mtime_ns
            whole = metrics.read_text().rpartition("\n")[0] if changed_at != self._changed_at else None
        except FileNotFoundError:
            return
        if whole is None:
            return
        rows = whole.splitlines()
        same = next(
            (place for place, pair in enumerate(zip(self._rows, rows, strict=False)) if pair[0] != pair[1]),
            min(len(self._rows), len(rows)),
        )
        for row in rows[same:]:
            entry: dict[str, Any] = json.loads(row)
            if "train_mean_nll" in entry:
                self._seen.append(Result(entry["step"] + 1, changed_at / 1e9))
                self._losses[entry["step"]] = entry["train_mean_nll"]
        self._rows, self._changed_at = rows, changed_at
