"""Shelves: whole files in a place, written once for each content, and read with their digest checked."""

import hashlib
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from nsai_work.blobs.pieces import DamagedPiece, cut, pack, unpack
from nsai_work.blobs.place import BlobGone, PieceMissing, Place
from nsai_work.blobs.table import PieceRows
from nsai_work.errors import BlobDamaged, BlobsUnavailable

_PIECES_PER_RENEWAL: Final = 64
_TRIES: Final = 8


class ContentChanged(Exception):
    """A file does not have the content that it is written for. Nothing refers to what was written of it."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that is complete: its key in the place, the digest and bytes of its content, the number of pieces."""

    key: str
    sha256: str
    size: int
    pieces: int


class BlobRows(PieceRows, Protocol):
    """The rows of blobs, as the store implements them. Each method is a transaction."""

    def take_place(self, name: str) -> str:
        """The place of this database's blobs: ``name``, if none was recorded."""
        ...

    def place(self) -> str | None:
        """The recorded place; None before its first use."""
        ...

    def touch(self, sha256: str) -> str | None:
        """The key of a complete blob, which is then not pruned for a day; None without one."""
        ...

    def begin(self, sha256: str) -> str:
        """Add the row of a blob that is being written, and return its key."""
        ...

    def renew(self, key: str) -> None:
        """Keep a blob that is being written from being pruned for another day. Raises BlobGone."""
        ...

    def complete(self, key: str, size: int, pieces: int) -> str:
        """Mark a blob as complete, and return its key; that of another, if one of this content was faster. Raises
        BlobGone."""
        ...

    def mark_damaged(self, key: str) -> None:
        """Record that a blob is not what was stored: it is no longer found, and its content is written again."""
        ...

    def discard(self, key: str) -> None:
        """Delete the row of a blob that no job names."""
        ...

    def of_job(self, job_id: str) -> list[StoredBlob]:
        """The blobs that a job names; in the place of a damaged one another of its content, if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Shelf:
    """The blobs of a database. ``limit`` is the size of the largest file, None without a limit. Thread-safe; all
    methods block."""

    rows: BlobRows
    place: Place
    limit: int | None

    def find(self, sha256: str) -> str | None:
        """The key of the blob with a content; None if there is none. It is not pruned for a day."""
        return self.rows.touch(sha256)

    def write(self, file: BinaryIO, sha256: str) -> str:
        """Write the content of an open file and return the key of its blob.

        Raises:
            ContentChanged: the content has another digest.
            BlobsUnavailable, StoreUnavailable, StoreFull: the place cannot be written; or the blob was pruned each
                time.
        """
        for tries in range(1, _TRIES + 1):
            # a key of its own: a file that changes cannot spoil what another process writes of the same digest
            key = self.rows.begin(sha256)
            try:
                kept = self._write(file, sha256, key)
            except BlobGone:
                # this process was suspended for more than a day
                self.delete(key)
                if tries == _TRIES:
                    raise always_pruned(self.place.name, _TRIES) from None
                continue
            except ContentChanged:
                self.delete(key)
                raise
            if kept != key:
                self.delete(key)
            return kept
        raise AssertionError("unreachable")

    def _write(self, file: BinaryIO, sha256: str, key: str) -> str:
        file.seek(0)
        digest, size, pieces = hashlib.sha256(), 0, 0
        for content in cut(file):
            digest.update(content)
            try:
                self.place.write(key, pieces, pack(content))
            except BlobsUnavailable:
                self.rows.renew(key)
                raise
            size, pieces = size + len(content), pieces + 1
            if pieces % _PIECES_PER_RENEWAL == 0:
                self.rows.renew(key)
        if digest.hexdigest() != sha256:
            raise ContentChanged
        return self.rows.complete(key, size, pieces)

    def delete(self, key: str) -> None:
        """Delete a blob that no job names. Raises BlobsUnavailable, StoreUnavailable."""
        self.place.delete(key)
        self.rows.discard(key)

    def read(self, blob: StoredBlob, into: BinaryIO) -> None:
        """Write the content of a blob to an open file. It must not be used before this returns.

        Raises:
            BlobDamaged: a piece is missing or damaged, or the content is not that of the digest.
            BlobsUnavailable, StoreUnavailable: the place cannot be read.
        """
        digest = hashlib.sha256()
        for number in range(blob.pieces):
            try:
                content = unpack(self.place.read(blob.key, number))
            except PieceMissing:
                if self.place.is_empty():
                    raise self._away() from None
                raise self._damaged(blob, f"piece {number} is missing") from None
            except DamagedPiece as error:
                raise self._damaged(blob, f"piece {number} {error}") from None
            digest.update(content)
            into.write(content)
        if digest.hexdigest() != blob.sha256:
            raise self._damaged(blob, f"its content has the digest {digest.hexdigest()[:12]}...")

    def _away(self) -> BlobsUnavailable:
        return BlobsUnavailable(
            f"the blobs in {self.place.name} cannot be used: nothing is there; is it mounted on this machine?",
            details={"place": self.place.name},
        )

    def _damaged(self, blob: StoredBlob, state: str) -> BlobDamaged:
        self.rows.mark_damaged(blob.key)
        return BlobDamaged(
            f"blob {blob.sha256} in {self.place.name} ({blob.key}) is damaged: {state}; submit the "
            "same file again, or restore the place from a copy, then retry the job",
            details={"sha256": blob.sha256, "key": blob.key, "place": self.place.name},
        )


def always_pruned(place: str, tries: int) -> BlobsUnavailable:
    """The error of a blob that was pruned each time before a job named it."""
    return BlobsUnavailable(
        f"a blob in {place} was pruned {tries} times before the job that names it was stored; was this process "
        "suspended, or is db prune told to spare nothing? Nothing was stored: submit again",
        details={"place": place, "tries": tries},
    )
