"""The rows of blobs for callers that block: ``nsai_work.blobs.shelf.BlobRows``."""

from dataclasses import dataclass

from nsai_work.blobs.shelf import StoredBlob
from nsai_work.store.blobs import rows
from nsai_work.store.engine.database import Database


@dataclass(frozen=True, slots=True)
class BlobStore:
    """The table of blobs, with a transaction per method. All raise StoreUnavailable and StoreFull."""

    database: Database

    def place(self) -> str | None:
        return self.database.read(rows.place)

    def take_place(self, name: str) -> str:
        return self.place() or self.database.run(rows.take_place, name)

    def touch(self, sha256: str) -> str | None:
        return self.database.run(rows.touch, sha256)

    def begin(self, sha256: str) -> str:
        return self.database.run(rows.begin, sha256)

    def renew(self, key: str) -> None:
        self.database.run(rows.renew, key)

    def complete(self, key: str, size: int, pieces: int) -> str:
        return self.database.run(rows.complete, key, size, pieces)

    def mark_damaged(self, key: str) -> None:
        self.database.run(rows.mark_damaged, key)

    def discard(self, key: str) -> None:
        self.database.run(rows.discard, key)

    def of_job(self, job_id: str) -> list[StoredBlob]:
        return self.database.read(rows.of_job, job_id)

    def write_piece(self, key: str, number: int, piece: bytes) -> None:
        self.database.run(rows.write_piece, key, number, piece)

    def read_piece(self, key: str, number: int) -> bytes | None:
        return self.database.read(rows.read_piece, key, number)

    def delete_pieces(self, key: str) -> None:
        self.database.run(rows.delete_pieces, key)
