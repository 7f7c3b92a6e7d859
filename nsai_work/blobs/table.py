"""The database itself, where it is a server: pieces as rows."""

from dataclasses import dataclass
from typing import Final, Protocol

from nsai_work.blobs.place import PieceMissing

INSIDE: Final = "the database"


class PieceRows(Protocol):
    """The rows of pieces, as the store implements them."""

    def write_piece(self, key: str, number: int, piece: bytes) -> None:
        """Add a row, or replace it."""
        ...

    def read_piece(self, key: str, number: int) -> bytes | None:
        """The piece; None without a row."""
        ...

    def delete_pieces(self, key: str) -> None:
        """Delete all rows of a blob."""
        ...


@dataclass(frozen=True, slots=True)
class TablePlace:
    """Pieces as rows."""

    rows: PieceRows
    name: str = INSIDE

    def write(self, key: str, number: int, piece: bytes) -> None:
        self.rows.write_piece(key, number, piece)

    def read(self, key: str, number: int) -> bytes:
        piece = self.rows.read_piece(key, number)
        if piece is None:
            raise PieceMissing
        return piece

    def is_empty(self) -> bool:
        # the rows of blobs and their pieces are one database
        return False

    def delete(self, key: str) -> None:
        self.rows.delete_pieces(key)
