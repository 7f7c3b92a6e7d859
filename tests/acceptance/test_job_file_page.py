"""docs/reference/job-file.md against the models of a job, field by field, with their defaults."""

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from crucible import Prompt
from nsai_work import Job
from nsai_work.job import STATE_FIELDS
from nsai_work.payloads import METHODS, PAYLOADS

PAGE: Final = (Path(__file__).parents[2] / "docs" / "reference" / "job-file.md").read_text()
ELSEWHERE: Final = {
    ("Job", "id"): "generated",
    ("OptimizerSpec", "name"): "there is only adam, which the page says",
    ("Composite", "note"): "empty",
}
"""Fields whose default has no form on the page, with the reason."""


REINFORCEMENT: Final = {
    "ReinforcementStep", "RolloutSampling", "RolloutLimits", "RolloutErrors", "AdvantageSpec",
}  # fmt: skip


def _records(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _records(inner)


def _defaults(kind: type[BaseModel], own: BaseModel | None, seen: set[type[BaseModel]]) -> Iterator[Any]:
    """Yield model, field and default of a model and of those inside it. ``own`` is the default of the whole."""
    if kind in seen or kind is Prompt:
        return
    seen.add(kind)
    for name, field in kind.model_fields.items():
        if kind is Job and name in STATE_FIELDS:
            continue
        default = field.get_default(call_default_factory=False) if own is None else getattr(own, name)
        for inner in _records(field.annotation):
            yield from _defaults(inner, default if isinstance(default, inner) else None, seen)
        if default is not PydanticUndefined and isinstance(default, bool | int | float | str | Enum):
            yield kind.__name__, name, default


def documented() -> list[tuple[str, str, Any]]:
    """Every field with a default that is a plain value."""
    seen: set[type[BaseModel]] = set()
    return [each for kind in (Job, *PAYLOADS.values(), *METHODS.values()) for each in _defaults(kind, None, seen)]


def forms(default: object) -> set[str]:
    """How a default may be written."""
    if isinstance(default, bool):
        return {str(default).lower()}
    if isinstance(default, Enum):
        return {str(default.value)}
    if isinstance(default, float):
        return {str(default), f"{default:g}", f"{default:.0e}".replace("e-0", "e-")}
    return {str(default)}


def is_shown(name: str, default: object) -> bool:
    """Whether the page has the field with its default: in a row, or as a name with its value."""
    for row in re.findall(r"^\| (`[^|]+) \| ([^|]*) \|", PAGE, re.MULTILINE):
        names = [each.rpartition(".")[2] for each in re.findall(r"`([\w.]+)`", row[0])]
        values = [each.strip(" `") for each in row[1].split(",")]
        if name in names and (forms(default) & {*values}):
            return True
    value = "|".join(map(re.escape, forms(default)))
    # several names may share a value: `train_mlp`, `train_attn` true
    return re.search(rf"`{name}`(?:, `\w+`)* \(?`?(?:{value})(?![\w.]*\w)", PAGE) is not None


FIELDS: Final = documented()


def test_there_are_fields_of_every_sort() -> None:
    """The walk reaches the records inside the payloads."""
    assert {("CheckpointPolicy", "save_every", 100), ("LoraSpec", "rank", 32), ("DataFile", "weight", 1.0)} <= {
        *FIELDS
    }
    assert ("RecoveryPolicy", "enabled", True) in FIELDS


@pytest.mark.parametrize(("model", "name", "default"), FIELDS, ids=[f"{each[0]}.{each[1]}" for each in FIELDS])
def test_the_default_of_a_field_is_on_its_page(model: str, name: str, default: object) -> None:
    """As it is in the code."""
    if (model, name) in ELSEWHERE or (name == "method" and model != "TrainingStep"):
        return
    if model in REINFORCEMENT and "`groups_per_step`" not in PAGE:
        pytest.skip("test_docs.py fails for these: they are not on the page at all")
    assert is_shown(name, default), f"{model}.{name} is {default!r} by default"
