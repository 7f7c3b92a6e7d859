"""Data sources: the bytes of a data file, hashed as they are read.

The only place that knows where the bytes of a data file are: a path of this machine.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

from nsai_work.errors import InvalidJob
from nsai_work.files.input_files import check_digest, invalid_file, open_input
from nsai_work.payloads import DataFile, DataSource

BLOCK_BYTES: Final = 256 * 1024


class DataBytes:
    """The bytes of a data file. ``sha256`` is that of the bytes read so far."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.path = path
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        self._ended = False
        self._digest = hashlib.sha256()

    def blocks(self) -> Iterator[bytes]:
        """Yield the rest of the file in blocks. One that grows is read no further: it may grow faster than that."""
        while not self._ended and self.position <= self.size and (block := self.file.read(BLOCK_BYTES)):
            self.position += len(block)
            self._digest.update(block)
            yield block
        self._ended = True

    def exhaust(self) -> None:
        """Read to the end, for the digest."""
        for _ in self.blocks():
            pass

    @property
    def sha256(self) -> str:
        """The digest of what was read."""
        return self._digest.hexdigest()


@contextmanager
def open_data(field: str, file: DataFile | DataSource) -> Iterator[DataBytes]:
    """Open a data file; ``field`` is the job's field that names it.

    Raises:
        FileUnusable: it cannot be opened or read.
        DataChanged: it was read to its end, and is not the pinned content.
        InvalidJob: it changed while it was read; or as raised inside, if its content is the pinned one.
    """
    path = Path(file.path)
    with open_input(field, path) as opened:
        data = DataBytes(path, opened)
        before = _state(opened)
        changed = invalid_file(field, path, "changed while it was read", "submit it when it is complete")
        try:
            yield data
        except InvalidJob:
            # submit accepted the pinned content, so a file that is invalid now has changed: report that instead
            if file.sha256 is not None:
                data.exhaust()
                check_digest(field, file, data.sha256)
            # what is invalid may be half of a write
            elif _state(opened) != before:
                raise changed from None
            raise
        if data.position:
            data.exhaust()
            check_digest(field, file, data.sha256)
            if _state(opened) != before or data.position != before[0]:
                raise changed


def _state(file: BufferedReader) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
