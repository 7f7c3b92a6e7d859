"""The table of families: the entry points of the recipes, and jobs that say the same."""

from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER.parents[1] / "docs" / "reference" / "recipes.md"


class EntryPoint(BaseModel):
    """A row of the table: jobs that say the same as an entry point, or what they lack."""

    model_config = ConfigDict(extra="forbid")

    family: str
    name: str
    jobs: list[dict[str, Any]] = Field(default_factory=list)
    set: list[str] = Field(default_factory=list)
    lacks: str | None = None

    @model_validator(mode="after")
    def _require_one(self) -> "EntryPoint":
        assert bool(self.jobs) != bool(self.lacks)
        return self


TABLE: Final = yaml.safe_load((FOLDER / "families.yaml").read_text())
ENTRY_POINTS: Final = [EntryPoint.model_validate(each) for each in TABLE["entry_points"]]


def whole_job(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job of the table with the defaults of its method."""
    if job.get("kind", "training_step") != "training_step":
        return {"backend": "tinkex", **job}
    payload = job["payload"]
    defaults = TABLE["defaults"]["rl" if payload.get("method") == "rl" else "sft"]
    blocks = {
        name: {**value, **payload.get(name, {})} for name, value in defaults.items() if isinstance(value, dict)
    }
    if "max_steps" in defaults and "epochs" in payload:
        defaults = {name: value for name, value in defaults.items() if name != "max_steps"}
    whole = {**defaults, **payload, **blocks}
    return {"kind": "training_step", "backend": "tinkex", **job, "payload": whole}


COMPARED_ROLLOUTS: Final = (
    "math_rl.train",
    "code_rl.train",
    "preference.shorter.train",
    "search_tool.train",
    "rl_numerics_check.train",
    "forecasting.train",
    "multiplayer_rl.guess_number.train",
    "multiplayer_rl.text_arena.train",
    "multiplayer_rl.twenty_questions.train",
    "rubric.train",
    "rubric.prometheus_experimental",
    "verifiers_rl.train",
    "harbor_rl.scripts.train_terminal_bench",
)
"""The entry points whose advantages and losses equal those of the cookbook's loop on the same environment
(``tests/peers/test_cookbook_families.py``)."""
COMPARED_TEACHERS: Final = (
    "distillation.on_policy_distillation",
    "distillation.on_policy_multi_teacher",
    "distillation.on_policy_distillation_harbor_multi_turn",
    "sdft.train",
    "sdft.run_continual_learning",
)
"""The entry points whose losses equal those of the cookbook's loops with the same teachers
(``tests/peers/test_cookbook_teachers.py``)."""
COMPARED_TEXTS: Final = (
    "chat_sl.train",
    "chat_sl.sweep.cli",
    "preference.dpo.train",
    "prompt_distillation.train",
    "distillation.off_policy_reasoning",
    "vlm_classifier.train",
    "vlm_classifier.sweep",
    "decisions.demo",
)
"""The entry points whose losses equal those of the cookbook's loop on the same batches
(``tests/peers/test_cookbook_texts.py``)."""
COMPARED_ALONE: Final = ("decisions.forecasting", "true_thinking_score.run_small_experiment")
"""The entry points whose losses, or scores, equal those of the cookbook in a test of their own
(``tests/peers/test_cookbook_decisions.py`` and ``test_cookbook_confidence.py``)."""
COMPARED_PIPELINE: Final = "preference.rlhf.rlhf_pipeline"
"""The entry point whose three stages are those of the cookbook (``tests/peers/test_cookbook_rlhf.py``)."""


def levels_of(entry: EntryPoint) -> str:
    """Return what tests hold of an entry point: S, its jobs are accepted; L, their first losses are those of the
    cookbook; E, they have evaluations; K, killed in the middle they end as if left alone."""
    if not entry.jobs:
        return ""
    compared = entry.name in (
        *COMPARED_ROLLOUTS,
        *COMPARED_TEACHERS,
        *COMPARED_TEXTS,
        *COMPARED_ALONE,
        COMPARED_PIPELINE,
    )
    evaluated = any(job["payload"].get("eval") for job in entry.jobs)
    # test_killed_families.py and test_killed_pipelines.py have all between them
    return "".join(letter for letter, held in zip("SLEK", (True, compared, evaluated, True), strict=True) if held)


def families() -> dict[str, list[EntryPoint]]:
    """Return the entry points by family."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in ENTRY_POINTS:
        found.setdefault(entry.family, []).append(entry)
    return found


def page_lines() -> list[str]:
    """Return the rows of the page's table, and the sentence above it with the number of families at each level."""
    rows, counts = [], dict.fromkeys("SLEK", 0)
    for family, entries in families().items():
        levels = [level for level in counts if all(level in levels_of(entry) for entry in entries)]
        for level in levels:
            counts[level] += 1
        names = ", ".join(f"`{entry.name.removeprefix(f'{family}.')}`" for entry in entries)
        lacks = "; ".join(dict.fromkeys(entry.lacks for entry in entries if entry.lacks)) or "nothing"
        rows.append(f"| `{family}` | {names} | {' '.join(levels) or 'none'} | {lacks} |")
    of_all = ", ".join(f"{level} {count}" for level, count in counts.items())
    return [f"Of {len(rows)} families, all entry points are at level: {of_all}.", *rows]
