"""The output file of a batch: its answers as JSON lines, written at the end, under a name that nothing has.

The file appears whole or not at all. A later owner that finds it, with the same content, has nothing left to do.
"""

import filecmp
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nsai_work.errors import InvalidJob, StoreFull
from nsai_work.files.input_files import invalid_file, unusable_file
from nsai_work.payloads import Inference

FIELD: Final = "payload.output"


def refuse_existing(payload: Inference) -> None:
    """Raise InvalidJob if the output of a new job has the name of something that exists, such as its input."""
    assert payload.output is not None
    output = Path(payload.output)
    if payload.input is not None and _same_file(output, Path(payload.input.path)):
        raise invalid_file(FIELD, output, "is the input file", "name a new file")
    if os.path.lexists(output):
        raise _exists_already(output)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _exists_already(path: Path, field: str = FIELD) -> InvalidJob:
    return invalid_file(field, path, "exists already", "name a new file, or move this one away")


def require_folder(path: Path) -> None:
    """Check that a file can be written beside ``path``, before anything is paid for.

    Raises:
        FileUnusable: it cannot.
    """
    if not path.parent.is_dir():
        raise _unwritable(path, "its folder does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable(path, "its folder is read-only")


def _unwritable(path: Path, reason: str, field: str = FIELD) -> InvalidJob:
    return unusable_file(field, path, f"cannot be written ({reason})", "name a file in an existing folder")


class OutputFile:
    """A file that is written under another name first, and ``publish`` gives it its own. ``field`` is the field
    that names it."""

    def __init__(self, path: Path, *, field: str = FIELD) -> None:
        """Create it. Raises FileUnusable: the file cannot be written."""
        self._path = path
        self._field = field
        self._draft = path.parent / f".{secrets.token_hex(8)}.nsai-work"
        try:
            self._file = self._draft.open("xb")
        except OSError as error:
            raise _unwritable(path, error.strerror or str(error), field) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was not published."""
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, given without their ends. Raises StoreFull: the disk is full."""
        try:
            self._file.writelines(line + b"\n" for line in lines)
        except OSError as error:
            raise StoreFull(f"{self._path}: {error.strerror}") from error

    def publish(self) -> None:
        """Write everything to the disk, and give the file its name. The same content there counts as ours.

        Raises:
            StoreFull: the disk is full.
            InvalidJob: something else has the name.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreFull(f"{self._path}: {error.strerror}") from error
        try:
            os.link(self._draft, self._path)
        except FileExistsError:
            if not self._path.is_file() or not filecmp.cmp(self._draft, self._path, shallow=False):
                raise _exists_already(self._path, self._field) from None
        except OSError:
            # a file system without links
            self._replace()

    def _replace(self) -> None:
        try:
            self._path.open("xb").close()
        except FileExistsError:
            raise _exists_already(self._path, self._field) from None
        except OSError as error:
            raise _unwritable(self._path, error.strerror or str(error), self._field) from error
        self._draft.replace(self._path)
