"""The input files of stored jobs on this machine: read from the blob store, as far as they were shipped."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nsai_work.blobs.access import open_shelf
from nsai_work.blobs.cache import BlobCache
from nsai_work.errors import BlobsUnavailable
from nsai_work.payloads import DataFile, DataSource, Payload
from nsai_work.payloads.files import with_paths
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.store import Store

CACHE_FOLDER: Final = "blobs"


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files of the jobs of a store, in the cache of this machine."""

    store: "Store"
    settings: Settings

    def localized(self, job_id: str, payload: Payload, held: ExitStack) -> Payload:
        """The payload of a job with paths of this machine; blocking. The files stay until ``held`` is closed.

        Raises:
            BlobsElsewhere, BlobsUnavailable, BlobDamaged: a shipped file cannot be read.
            StoreUnavailable: the database does not answer.
        """
        blobs = {blob.sha256: blob for blob in self.store.blobs.of_job(job_id)}
        if not blobs:
            return payload
        shelf, cache = open_shelf(self.settings, self.store.blobs), self.cache()

        def path_of(source: DataFile | DataSource) -> str:
            blob = blobs.get(source.sha256 or "")
            if blob is None:
                return source.path
            file = cache.held(blob.sha256, Path(source.path).name, partial(shelf.read, blob))
            return str(held.enter_context(file))

        try:
            return with_paths(payload, path_of)
        except OSError as error:
            raise BlobsUnavailable(
                f"files of the job cannot be kept in {cache.folder}: {error.strerror or error}; make room there",
                details={"place": str(cache.folder)},
            ) from error

    def cache(self) -> BlobCache:
        """The files on this machine, by the digest of their content."""
        return BlobCache(self.settings.make_home() / CACHE_FOLDER, self.settings.blobs_cache_mib * 1024 * 1024)
