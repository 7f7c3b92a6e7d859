"""The fields that a record has at a place in data, for errors about unknown ones."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel

MAX_DEPTH: Final = 1
"""The number of blocks around a block in which a misplaced field is looked for."""


def fields_beside(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the names of the fields that could stand at a location of a validation error of ``model``.

    A location also has items' indexes and tags of unions, which narrow a choice of models by their ``type``.
    """
    models = [model]
    for step in location[:-1]:
        tagged = [kind for kind in models if "type" in kind.model_fields and _tag(kind) == step]
        inside = [field.annotation for kind in models for name, field in kind.model_fields.items() if name == step]
        if tagged and len(models) > 1:
            models = tagged
        elif inside:
            models = [found for annotation in inside for found in _models_in(annotation)]
    return list(dict.fromkeys(name for kind in models for name in kind.model_fields))


def place_of_field(model: type[BaseModel], name: object) -> tuple[str, ...] | None:
    """Return the path of a field in a block of ``model``; None if no block, or several, have one of this name."""
    found = list(_places(model, str(name), ()))
    return found[0] if len(found) == 1 else None


def _places(model: type[BaseModel], name: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for block, field in model.model_fields.items():
        for inner in dict.fromkeys(_models_in(field.annotation)):
            if name in inner.model_fields:
                yield (*path, block, name)
            if len(path) < MAX_DEPTH:
                yield from _places(inner, name, (*path, block))


def _tag(kind: type[BaseModel]) -> object:
    return kind.model_fields["type"].default


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
