"""Places of blobs: the protocol that each kind of place implements."""

from typing import Protocol


class PieceMissing(Exception):
    """A place has no such piece."""


class BlobGone(Exception):
    """A blob was pruned while it was written, or before the job that names it was stored. It must be written
    again."""


class Place(Protocol):
    """Keeps pieces by the key of their blob and their number, from 0. Thread-safe; all methods block.

    ``name`` is what is written into the database, and compared: it holds no credential.
    """

    @property
    def name(self) -> str:
        """The place, as errors and the database name it."""
        ...

    def write(self, key: str, number: int, piece: bytes) -> None:
        """Keep a piece. Raises BlobsUnavailable, and BlobGone where the place knows of the blob's row."""
        ...

    def read(self, key: str, number: int) -> bytes:
        """Return a piece. Raises BlobsUnavailable, PieceMissing."""
        ...

    def is_empty(self) -> bool:
        """Check whether the place holds no blob, or is not there at all, as a folder that is not mounted. Raises
        BlobsUnavailable."""
        ...

    def delete(self, key: str) -> None:
        """Delete all pieces of a blob. Idempotent. Raises BlobsUnavailable."""
        ...
