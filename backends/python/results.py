"""Conversion of a function's result to a JSON object, with the files that it names."""

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, JsonValue

from crucible.errors import MalformedAnswer
from crucible.values.json_types import json_problem

MAX_RESULT_BYTES: Final = 16 << 20


def result_object(value: object, folder: Path) -> dict[str, JsonValue]:
    """Return a result as a JSON object: ``None`` as ``{}``, and what is no mapping as ``{"value": ...}``.

    Records, dataclasses, enums and tuples are converted. A ``Path`` names a file of the result; it is relative to
    ``folder``, and becomes the absolute path.

    Raises:
        MalformedAnswer: a value has no JSON form (such as NaN), a file is not a regular file in ``folder``, or the
            result is too large. The error names the field.
    """
    try:
        converted = _Converter(folder.resolve()).convert(value, ())
    except RecursionError:
        raise _refused((), "refers to itself or is nested too deeply") from None
    if found := json_problem(converted):
        path, problem = found
        raise _refused((path,) if path else (), problem)
    if len(json.dumps(converted)) > MAX_RESULT_BYTES:
        raise _refused((), f"larger than {MAX_RESULT_BYTES >> 20} MiB; write a file and return its Path")
    if converted is None:
        return {}
    return converted if isinstance(converted, dict) else {"value": converted}


class _Converter:
    """Replaces records, enums and paths by JSON. Other values remain as they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def convert(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Enum):
            return self.convert(value.value, path)
        if isinstance(value, Path):
            return self._file(value, path)
        if isinstance(value, BaseModel):
            value = {name: getattr(value, name) for name in type(value).model_fields}
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {key: self.convert(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.convert(item, (*path, str(index))) for index, item in enumerate(value)]
        return value

    def _file(self, value: Path, path: tuple[str, ...]) -> str:
        # resolved, so that neither .. nor a link leads out of the folder
        try:
            file = (self._folder / value).resolve()
        except (OSError, RuntimeError, ValueError):
            raise _refused(path, "a path that leads nowhere") from None
        if not file.is_relative_to(self._folder):
            raise _refused(path, "a file of a result must be in the folder of the job (Context.folder)")
        if not file.is_file():
            raise _refused(path, "no such regular file in the folder of the job")
        return str(file)


def _refused(path: tuple[str, ...], reason: str) -> MalformedAnswer:
    field = ".".join(("result", *path))[:300]
    return MalformedAnswer(f"{ascii(field)[1:-1]}: {reason}", backend="python")
