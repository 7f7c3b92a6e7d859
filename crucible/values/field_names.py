"""The fields that a record has at a place in data, for errors about unknown ones."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel


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


def _tag(kind: type[BaseModel]) -> object:
    return kind.model_fields["type"].default


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
