"""Input files of jobs: opening, digest check, and errors that name the file and the line."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

from nsai_work.errors import DataChanged, FileUnusable, InvalidJob
from nsai_work.files.user_paths import NotRegular, open_regular
from nsai_work.payloads import DataFile, DataSource


def invalid_file(
    field: str, path: Path, state: str, allowed: str, line: int | None = None, **details: str | None
) -> InvalidJob:
    """Build the error for a file: its state and what is allowed instead. ``field`` is the job's field that names
    it."""
    location = f"{path}" if line is None else f"{path}, line {line}"
    return InvalidJob(
        f"{field}: {location}: {state}; {allowed}",
        details={"field": field, "path": str(path), "line": line, **details},
    )


def unusable_file(field: str, path: Path, state: str, allowed: str) -> FileUnusable:
    """Build the error for a file that cannot be opened here: a worker then declines the job."""
    return FileUnusable(
        f"{field}: {path}: {state}; {allowed}", details={"field": field, "path": str(path), "line": None}
    )


MAX_SHOWN: Final = 20
"""The number of bad rows that an error lists."""


class BadRows:
    """The bad rows of a file, reported together: all are counted, and the first ``MAX_SHOWN`` are named."""

    def __init__(self, field: str, path: Path) -> None:
        self._field = field
        self._path = path
        self._first: list[InvalidJob] = []
        self._count = 0

    def add(self, error: InvalidJob) -> None:
        """Add the error of a row."""
        self._count += 1
        if self._count <= MAX_SHOWN:
            self._first.append(error)

    def check(self, rows: int) -> None:
        """Raise InvalidJob for the bad ones of ``rows`` rows, if there are any."""
        if self._count == 1:
            raise self._first[0]
        if self._count:
            raise self._all_bad(rows)

    def _all_bad(self, rows: int) -> InvalidJob:
        shown = [error.message.replace(f"{self._field}: {self._path}, ", "") for error in self._first]
        more = [f"... and {self._count - MAX_SHOWN} more"] if self._count > MAX_SHOWN else []
        return InvalidJob(
            "\n".join([f"{self._field}: {self._path}: {self._count} of {rows} rows are bad:", *shown, *more]),
            details={
                "field": self._field,
                "path": str(self._path),
                "count": self._count,
                "lines": [error.details["line"] for error in self._first],
            },
        )


@contextmanager
def open_input(field: str, path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading. Errors of reads inside the context are translated as well.

    Raises:
        FileUnusable: the file does not exist, is no regular file, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            yield file
    except NotRegular as exc:
        raise unusable_file(field, path, str(exc), "name an existing file") from None
    except OSError as exc:
        raise unusable_file(field, path, f"cannot be read ({exc.strerror})", "name a readable file") from exc


def check_digest(field: str, source: DataSource | DataFile, found: str) -> None:
    """Compare the SHA-256 of a file's content with the pinned one, if there is one.

    Raises:
        DataChanged: they differ.
    """
    if source.sha256 not in (None, found):
        raise DataChanged(
            f"{field}: {source.path} has changed since the job was submitted "
            f"(sha256 {found[:12]}..., pinned {str(source.sha256)[:12]}...); restore the file, or submit a new job",
            details={"field": f"{field.removesuffix('.path')}.sha256", "path": source.path, "found": found},
        )
