"""Conversion of a function's result to a JSON object, with the files that it names."""

import dataclasses
import json
import math
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, JsonValue

from crucible.errors import MalformedAnswer

MAX_RESULT_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 200


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
        size = len(json.dumps(converted))
    except RecursionError:
        raise _refused((), "refers to itself or is nested too deeply") from None
    if size > MAX_RESULT_BYTES:
        raise _refused((), f"larger than {MAX_RESULT_BYTES >> 20} MiB; write a file and return its Path")
    if converted is None:
        return {}
    return converted if isinstance(converted, dict) else {"value": converted}


class _Converter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def convert(self, value: Any, path: tuple[str, ...]) -> JsonValue:
        if len(path) > MAX_DEPTH:
            raise _refused(path[:3], "refers to itself or is nested too deeply")
        if isinstance(value, Enum):
            return self.convert(value.value, path)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(str(value), path)
        if isinstance(value, int):
            return _integer(int(value), path)
        if isinstance(value, float):
            return _number(float(value), path)
        if isinstance(value, Path):
            return self._file(value, path)
        return self._compound(value, path)

    def _compound(self, value: Any, path: tuple[str, ...]) -> JsonValue:
        if isinstance(value, BaseModel):
            value = {name: getattr(value, name) for name in type(value).model_fields}
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {_key(key, path): self.convert(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.convert(item, (*path, str(index))) for index, item in enumerate(value)]
        raise _refused(path, f"a value of type {type(value).__name__} has no form in JSON")

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
        return _text(str(file), path)


def _text(value: str, path: tuple[str, ...]) -> str:
    if "\x00" in value or not _is_encodable(value):
        raise _refused(path, "a text must not contain NUL or a lone surrogate")
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(value: int, path: tuple[str, ...]) -> int:
    if not -(2**63) <= value < 2**63:
        raise _refused(path, "an integer must fit into 64 bits; return it as a text")
    return value


def _number(value: float, path: tuple[str, ...]) -> float:
    if not math.isfinite(value):
        raise _refused(path, f"{value} has no form in JSON; return None or a text")
    return value


def _key(key: object, path: tuple[str, ...]) -> str:
    if not isinstance(key, str):
        raise _refused(path, f"the names of an object must be texts, not {type(key).__name__}")
    return _text(str(key), path)


def _refused(path: tuple[str, ...], reason: str) -> MalformedAnswer:
    field = ".".join(("result", *path))[:300]
    return MalformedAnswer(f"{field}: {reason}", backend="python", details={"field": field})
