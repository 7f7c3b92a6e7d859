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
