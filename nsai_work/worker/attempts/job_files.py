"""The input files of a claimed job on this machine: read from the blob store, as far as they were shipped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from crucible.errors import CrucibleError
from nsai_work.client.local_files import LocalFiles
from nsai_work.payloads import Payload
from nsai_work.payloads.files import input_files
from nsai_work.store.records import Claim


@dataclass(frozen=True, slots=True)
class JobFiles(LocalFiles):
    """The files of the jobs of a worker."""

    @asynccontextmanager
    async def local(self, claim: Claim, payload: Payload) -> AsyncIterator[Payload]:
        """The payload with paths of this machine. Its files stay while the context is open.

        Raises:
            BlobsElsewhere, BlobsUnavailable, BlobDamaged: a shipped file cannot be read.
            StoreUnavailable: the database does not answer.
        """
        if not input_files(payload):
            yield payload
            return
        with ExitStack() as held:
            local = await asyncio.to_thread(self.localized, claim.job_id, payload, held)
            try:
                yield local
            except CrucibleError as error:
                _restore_paths(error, payload, local)
                raise


def _restore_paths(error: CrucibleError, payload: Payload, local: Payload) -> None:
    """Name the files in an error as the job does: a path of the cache means nothing to its reader."""
    for given, cached in zip(input_files(payload), input_files(local), strict=True):
        if given.source.path != cached.source.path:
            error.message = error.message.replace(cached.source.path, given.source.path)
            if error.details.get("path") == cached.source.path:
                error.details["path"] = given.source.path
    error.args = (error.message,)
