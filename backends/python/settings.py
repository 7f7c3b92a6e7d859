"""Settings of the python backend: which functions it may import, and what an isolated process receives."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import Field, JsonValue, StringConstraints

from crucible.errors import InvalidRequest
from crucible.values.record import Record
from crucible.values.record_reader import read_record
from nsai_work.files.home import FolderSetting, file_name, home_folder

ALLOW_VARIABLE: Final = "NSAI_WORK_PYTHON_ALLOW"
ENV_VARIABLE: Final = "NSAI_WORK_PYTHON_ENV"
FILES_VARIABLE: Final = "NSAI_WORK_PYTHON_FILES"
VARIABLES: Final = {"allow": ALLOW_VARIABLE, "environment": ENV_VARIABLE, "files": FILES_VARIABLE}

ModuleName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", max_length=500)
]
VariableName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class PythonSettings(Record):
    """``allow`` lists modules and packages whose functions a job may name as ``package.module:function``; a package
    includes its submodules. ``environment`` lists variables that isolated processes receive, besides a few without
    secrets. ``files`` is the parent of the jobs' folders."""

    allow: tuple[ModuleName, ...] = ()
    environment: tuple[VariableName, ...] = ()
    files: FolderSetting | None = None

    def allows(self, module: str) -> bool:
        """Return whether functions of a module may be named without an entry point."""
        return any(module == name or module.startswith(f"{name}.") for name in self.allow)

    def folder_of(self, job_id: str) -> Path:
        """Return the folder of a job's files; it need not exist."""
        parent = self.files if self.files is not None else home_folder() / "python"
        return parent / file_name(job_id)


class PythonOptions(Record):
    """Options of a command. ``isolated``: in a process of its own."""

    isolated: bool = Field(default=False, strict=True)


def read_settings(config: Mapping[str, JsonValue] | None) -> PythonSettings:
    """Read settings from a mapping, and those it lacks from the environment.

    Raises:
        InvalidRequest: a value is invalid; the error names the field or the variable.
    """
    values: dict[str, JsonValue] = dict(config or {})
    for field, variable in VARIABLES.items():
        text = os.environ.get(variable, "").strip()
        if text and field not in values:
            values[field] = _from_variable(field, variable, text)
    return read_record(PythonSettings, values, backend="python")


def _from_variable(field: str, variable: str, text: str) -> JsonValue:
    value: JsonValue = text if field == "files" else [name.strip() for name in text.split(",") if name.strip()]
    try:
        read_record(PythonSettings, {field: value}, backend="python")
    except InvalidRequest as error:
        allowed = "expected a folder" if field == "files" else "expected names, separated by commas"
        raise InvalidRequest.of(variable, text, allowed, backend="python") from error
    return value
