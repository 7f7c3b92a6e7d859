"""The reads of a claimed job from other jobs: rows, checkpoints and models, pinned at the first attempt."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final

from pydantic import JsonValue

from crucible.backend import Command, CommandBackend, CommandCall, TrainingBackend
from crucible.errors import CrucibleError, InvalidRequest, NotFound, PluginError
from crucible.runtime.checked_calls import checked_command
from nsai_work.client.checkpoints.job_model import JobModel, model_of_job
from nsai_work.client.checkpoints.sampling_weights import sampling_weights
from nsai_work.client.results import as_conversation, read_rows
from nsai_work.errors import DataChanged, InvalidJob, JobNotFound
from nsai_work.files.home import file_name
from nsai_work.files.user_paths import expanded
from nsai_work.inference.prompts import read_prompts
from nsai_work.payloads import Inference, Payload
from nsai_work.payloads.reads import JobRead, PinnedRead, ReadKind, job_reads, with_reads
from nsai_work.store.records import Claim
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.attempts.job_files import JobFiles

FUNCTIONS: Final = "python"
"""The backend that runs the functions which map rows."""


@dataclass(slots=True)
class _Found:
    """The values that the fields of a job have read."""

    pinned: dict[str, PinnedRead] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[JsonValue]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobInputs:
    """The reading of other jobs for the jobs of a worker."""

    files: JobFiles
    backends: BackendPool

    @asynccontextmanager
    async def read(self, claim: Claim, payload: Payload) -> AsyncIterator[Payload]:
        """The payload with what it reads of other jobs in its place. Files stay while the context is open.

        Raises:
            InvalidJob: the other job does not have it (any more), or its rows cannot be used.
            DataChanged: the rows, or what their function makes of them, are others than at the first attempt.
            CrucibleError: a function failed, a file or the store cannot be read.
        """
        reads = job_reads(payload)
        if not reads:
            yield payload
            return
        before = await asyncio.to_thread(self.files.store.pinned_reads, claim.job_id)
        found = _Found()
        with ExitStack() as held:
            for read in reads:
                try:
                    await self._read(claim, read, before.get(read.field), found, held)
                except (JobNotFound, InvalidRequest, NotFound) as error:
                    where = "" if error.message.startswith(read.field) else f"{read.field}: "
                    raise InvalidJob(
                        f"{where}{error.message}", details={"field": read.field, "job_id": read.job}
                    ) from error
            if found.pinned != before:
                await asyncio.to_thread(self.files.store.pin_reads, claim, found.pinned)
            yield with_reads(payload, found.paths, found.rows, found.digests)

    async def _read(
        self, claim: Claim, read: JobRead, before: PinnedRead | None, found: _Found, held: ExitStack
    ) -> None:
        if read.kind is not ReadKind.ROWS:
            model = before if before is not None else await self._checkpoint(read)
            assert model.path is not None
            found.pinned[read.field], found.paths[read.field] = model, model.path
            return
        rows = await asyncio.to_thread(self._rows, read)
        pinned = PinnedRead(job=read.job, rows=len(rows), sha256=hashlib.sha256(_lines(rows)).hexdigest())
        _require_same(read, before, pinned, "rows", "sha256")
        if read.field.startswith("payload.inputs."):
            found.pinned[read.field], found.rows[read.field] = pinned, list(rows)
            return
        used = await self._mapped(claim, read, rows)
        if not used:
            raise InvalidJob(
                f"{read.field}: none of the {len(rows)} rows of job {read.job} is left; at least one is required",
                details={"field": read.field, "job_id": read.job},
            )
        content = _lines(used)
        digest = hashlib.sha256(content).hexdigest()
        pinned = pinned.model_copy(update={"used": len(used), "used_sha256": digest})
        _require_same(read, before, pinned, "used", "used_sha256")
        file = self.files.cache().held(digest, f"rows-of-{file_name(read.job)}.jsonl", partial(_write, content))
        found.pinned[read.field], found.digests[read.field] = pinned, digest
        found.paths[read.field] = str(await asyncio.to_thread(held.enter_context, file))

    async def _checkpoint(self, read: JobRead) -> PinnedRead:
        model = await asyncio.to_thread(self._model, read)
        saved = model.checkpoint
        assert saved.path is not None
        path = saved.path
        if read.kind is ReadKind.MODEL:
            backend = await self.backends.get(model.backend)
            assert isinstance(backend, TrainingBackend)
            path = (await sampling_weights(self.files.store, backend, model)).path
        return PinnedRead(job=read.job, path=path, step=saved.step)

    def _model(self, read: JobRead) -> JobModel:
        return model_of_job(self.files.store, self.files.store.get(read.job), str(read.checkpoint))

    def _rows(self, read: JobRead) -> list[dict[str, JsonValue]]:
        other = self.files.store.get(read.job)
        with ExitStack() as held:
            payload = other.parsed_payload
            if isinstance(payload, Inference) and payload.input is not None:
                payload = self.files.localized(other.id, payload, held)
                assert isinstance(payload, Inference)
                assert payload.input is not None
                return list(read_rows(self.files.store, other, partial(read_prompts, expanded(payload.input.path))))
            return list(read_rows(self.files.store, other, lambda: iter(())))

    async def _mapped(
        self, claim: Claim, read: JobRead, rows: list[dict[str, JsonValue]]
    ) -> list[dict[str, JsonValue]]:
        if read.function is None:
            return [row for each in rows if (row := as_conversation(each)) is not None]
        backend = await self.backends.get(FUNCTIONS)
        if not isinstance(backend, CommandBackend):
            raise PluginError(f"the backend {FUNCTIONS!r} runs no functions here", backend=FUNCTIONS)
        call, mapped = CommandCall(job_id=claim.job_id, attempt=claim.attempt), []
        for number, row in enumerate(rows, start=1):
            command = Command(name=read.function, arguments={"row": row})
            try:
                found = await checked_command(backend, command, call)
            except CrucibleError as error:
                error.message = f"{read.field}.map: row {number} of job {read.job}: {error.message}"
                error.args = (error.message,)
                raise
            # a function returns None, or nothing, for a row to drop
            if found:
                mapped.append(found)
        return mapped


def _require_same(read: JobRead, before: PinnedRead | None, now: PinnedRead, *names: str) -> None:
    """Check that the rows are those of the first attempt. Raises DataChanged."""
    if before is None or all(getattr(before, name) == getattr(now, name) for name in names):
        return
    whose = "its rows" if "sha256" in names else f"what {read.function} makes of its rows"
    raise DataChanged(
        f"{read.field}: {whose} of job {read.job} has changed since the first attempt ({now.rows} rows, sha256 "
        f"{getattr(now, names[-1])[:12]}..., pinned {str(getattr(before, names[-1]))[:12]}...); submit a new job",
        details={"field": read.field, "job_id": read.job},
    )


def _lines(rows: list[dict[str, JsonValue]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for row in rows)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
