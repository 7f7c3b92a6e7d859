"""The cache of blobs: a folder of files that were read from the blob store, on this machine, up to a size."""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from nsai_work.files.home import make_private_file, make_private_folder

_DRAFTS: Final = "drafts"
_DRAFT_AGE_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BlobCache:
    """Files by digest and name. A file that a process holds is locked (flock), and is not evicted.

    Shared by the processes of a machine. All methods block and raise OSError.
    """

    folder: Path
    max_bytes: int

    @contextmanager
    def held(self, sha256: str, name: str, read: Callable[[BinaryIO], None]) -> Iterator[Path]:
        """The path of a file with this content, which stays while the context is open. ``read`` writes it, if it is
        not there or is damaged. The name of the file tells its form, so it is kept."""
        path = self.folder / sha256 / name
        while (file := _locked(path, sha256)) is None:
            self._fetch(path, read)
        with file:
            self._evict()
            yield path

    def _fetch(self, path: Path, read: Callable[[BinaryIO], None]) -> None:
        drafts = make_private_folder(self.folder / _DRAFTS)
        draft = make_private_file(drafts / secrets.token_hex(8))
        try:
            with draft.open("wb") as file:
                read(file)
            make_private_folder(path.parent)
            # an eviction may delete the empty folder in between; the caller tries again
            with suppress(FileNotFoundError):
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Delete the files that were used least recently, until the rest is within the size."""
        files: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.parent.name != _DRAFTS:
                    files.append((status.st_atime, status.st_size, path))
                elif status.st_mtime < time.time() - _DRAFT_AGE_S:
                    path.unlink()
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            if _deleted(path):
                total -= size


def _locked(path: Path, sha256: str) -> BinaryIO | None:
    """The open file, locked against eviction, if it is there and whole. A damaged one is deleted."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        if not _is_at(path, file):
            file.close()
            return None
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            file.close()
            path.unlink(missing_ok=True)
            return None
        # noted as an access: whoever reads the file at this moment checks by its mtime that it is unchanged
        os.utime(file.fileno(), ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
    except BaseException:
        file.close()
        raise
    return file


def _deleted(path: Path) -> bool:
    """Delete a file unless it is held."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return False
    with suppress(OSError):
        path.parent.rmdir()
    return True


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Compare an open file with the file that the path names now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
