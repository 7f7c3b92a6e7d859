"""A folder beside the SQLite file, with a folder for each blob."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsai_work.blobs.place import PieceMissing
from nsai_work.errors import BlobsUnavailable
from nsai_work.files.home import make_private_file, make_private_folder

BESIDE: Final = "the folder beside the SQLite file"


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """Pieces as files. The name is relative to the database, which may be moved together with the folder."""

    folder: Path
    name: str = BESIDE

    def write(self, key: str, number: int, piece: bytes) -> None:
        with self._translated():
            path = make_private_folder(self.folder / key) / str(number)
            draft = make_private_file(path.with_name(f".{number}.{secrets.token_hex(4)}"))
            with draft.open("wb") as file:
                file.write(piece)
                file.flush()
                # the row that says that the blob is complete must not outlive its pieces in a power failure
                os.fsync(file.fileno())
            draft.replace(path)

    def read(self, key: str, number: int) -> bytes:
        with self._translated():
            try:
                return (self.folder / key / str(number)).read_bytes()
            except FileNotFoundError:
                raise PieceMissing from None

    def is_empty(self) -> bool:
        with self._translated():
            try:
                return not any(self.folder.iterdir())
            except FileNotFoundError:
                return True

    def delete(self, key: str) -> None:
        moved = self.folder / f".{key}"
        with self._translated():
            # out of the way of a process that was suspended while it wrote, and goes on now
            for folder in (moved, self.folder / key):
                with suppress(FileNotFoundError):
                    shutil.rmtree(folder.replace(moved))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BlobsUnavailable(
                f"the blobs in {self.folder} cannot be used: {error.strerror or error}; make room in that folder, "
                "and make it writable",
                details={"place": str(self.folder)},
            ) from error
