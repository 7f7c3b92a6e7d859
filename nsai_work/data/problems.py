"""Problems of data: of a row, of a whole file, and all bad rows of a file in one error."""

from pathlib import Path

from nsai_work.errors import InvalidJob
from nsai_work.files.input_files import MAX_SHOWN, BadRows
from nsai_work.payloads import DataFile


class RowProblem(Exception):
    """A row that cannot be used: its state, and what is allowed instead. ``field`` is the path inside the row."""

    def __init__(self, state: str, allowed: str, field: str | None = None) -> None:
        super().__init__(f"{state}; {allowed}")
        self.field = field


class RowTooLong(RowProblem):
    """A row that is too long to be read into memory. What follows it may be gigabytes away."""


class FileProblem(Exception):
    """A file that cannot be read further, from ``line`` on if it is known."""

    def __init__(self, state: str, allowed: str, line: int | None = None) -> None:
        super().__init__(f"{state}; {allowed}")
        self.line = line


class RowProblems:
    """The bad rows of a file: the first of them, and the number of all."""

    def __init__(self, field: str, file: DataFile, *, skip: bool) -> None:
        self._field = field
        self._path = file.path
        self._skip = skip
        self._bad = BadRows(field, Path(file.path))
        self.lines: list[int] = []
        self.texts: list[str] = []
        self.count = 0

    def add(self, line: int, problem: RowProblem) -> None:
        """Count a bad row."""
        self.count += 1
        self._bad.add(self.error(str(problem), line, problem.field))
        if self.count <= MAX_SHOWN:
            self.lines.append(line)
            self.texts.append(f"line {line}: {problem}")

    def raise_if_any(self, rows: int) -> None:
        """Raise InvalidJob for all bad ones of ``rows`` rows, unless they are to be skipped."""
        if not self._skip:
            self._bad.check(rows)

    def error(self, text: str, line: int | None = None, data_field: str | None = None) -> InvalidJob:
        """Return the error for one row, or for the whole file."""
        location = self._path if line is None else f"{self._path}, line {line}"
        return InvalidJob(
            f"{self._field}: {location}: {text}",
            details={"field": self._field, "path": self._path, "line": line, "data_field": data_field},
        )
