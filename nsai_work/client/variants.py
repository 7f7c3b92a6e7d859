"""Variants of jobs: over several values of fields, as ``submit --set FIELD=VALUE,VALUE`` names them."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Self

from crucible.errors import InvalidRequest
from nsai_work.errors import InvalidJob
from nsai_work.job import Job

MAX_VARIANTS: Final = 1_000
OPTION: Final = "--set"


@dataclass(frozen=True, slots=True)
class VariedField:
    """A field and the values that it takes, one in each variant."""

    path: tuple[str, ...]
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``FIELD=VALUE,VALUE,...``. Values are JSON; what is none is text.

        Raises:
            InvalidRequest: it has another form.
        """
        name, equals, values = text.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path) or not values:
            raise InvalidRequest.of(
                OPTION, text, "expected FIELD=VALUE,VALUE, as optimizer.learning_rate=1e-4,3e-4"
            )
        # fields of the payload need no prefix
        inside = path[0] not in Job.model_fields
        return cls(("payload", *path) if inside else path, _values(values))

    @property
    def name(self) -> str:
        """The field, as people name it."""
        return ".".join(self.path[1:] if self.path[0] == "payload" else self.path)


def variants(entry: Any, fields: Sequence[VariedField], tag: str) -> list[Any]:
    """Return a job of a file once for each combination of values, named and tagged.

    Raises:
        InvalidJob: several variants would have the same id, ref or idempotency key.
    """
    if not fields or not isinstance(entry, dict):
        return [entry]
    combinations = [*product(*(field.values for field in fields))]
    if len(combinations) > 1:
        for unique in ("id", "ref", "idempotency_key"):
            if unique in entry:
                raise InvalidJob(
                    f"{unique}: {OPTION} makes {len(combinations)} jobs of this one, which cannot share it"
                )
    return [_variant(entry, fields, values, tag) for values in combinations]


def require_bounded(fields: Sequence[VariedField]) -> None:
    """Refuse more combinations than anybody means.

    Raises:
        InvalidRequest: there are more than ``MAX_VARIANTS``, or a field is named twice.
    """
    names = [field.name for field in fields]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InvalidRequest.of(OPTION, repeated, "named twice; list its values in one option")
    count = 1
    for field in fields:
        count *= len(field.values)
    if count > MAX_VARIANTS:
        raise InvalidRequest.of(OPTION, count, f"at most {MAX_VARIANTS} combinations are allowed")


def _variant(entry: Mapping[str, Any], fields: Sequence[VariedField], values: Sequence[Any], tag: str) -> Any:
    job = deepcopy(dict(entry))
    for field, value in zip(fields, values, strict=True):
        _put(job, field.path, value)
    varied = [
        f"{field.path[-1]}={_text(value)}"
        for field, value in zip(fields, values, strict=True)
        if len(field.values) > 1
    ]
    if varied:
        name = job.get("name")
        job["name"] = " ".join([*([name] if isinstance(name, str) else []), *varied])[:200]
        tags = job.get("tags")
        job["tags"] = [*(tags if isinstance(tags, list) else []), tag]
    return job


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *folders, last = path
    for folder in folders:
        inner = data.get(folder)
        if not isinstance(inner, dict):
            # a new block; what is no block is refused by the field's own check
            inner = data[folder] = {}
        data = inner
    data[last] = value


def _values(text: str) -> tuple[Any, ...]:
    try:
        return tuple(json.loads(f"[{text}]"))
    except (ValueError, RecursionError):
        return tuple(_value(part.strip()) for part in text.split(","))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
