"""Download and unpacking of checkpoint archives."""

import asyncio
import os
import secrets
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.wire.transport import HttpTransport
from crucible.backend import no_report
from crucible.errors import InvalidRequest, MalformedAnswer
from nsai_work.files.user_paths import NotRegular, open_regular, refuse_odd_target

MAX_MEMBERS: Final = 10_000
"""The most members of an archive."""


@dataclass(frozen=True, slots=True)
class DownloadLimit:
    """The most bytes of a file, and who learns of its progress: ``report(done, total)``."""

    max_bytes: int | None = None
    report: Callable[[int, int | None], None] = no_report

    def check(self, size: int) -> None:
        """Raise InvalidRequest for a size beyond the limit."""
        if self.max_bytes is not None and size > self.max_bytes:
            raise invalid("max_bytes", self.max_bytes, f"the checkpoint has {size} bytes or more")


async def download_file(
    transport: HttpTransport, url: str, target: Path, *, authenticated: bool, limit: DownloadLimit | None = None
) -> None:
    """Download to a temporary file beside ``target`` and rename it once complete.

    Raises as ``HttpTransport.download``; InvalidRequest: the file cannot be written, or is longer than the limit.
    """
    limit = limit or DownloadLimit()
    done, total = 0, None

    def on_length(length: int) -> None:
        nonlocal total
        total = length
        limit.check(length)

    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    file = await asyncio.to_thread(_opened, target, part)
    try:
        async for block in transport.download(url, authenticated=authenticated, on_length=on_length):
            done += len(block)
            limit.check(done)
            await asyncio.to_thread(file.write, block)
            limit.report(done, total if total is not None and done <= total else None)
        await asyncio.to_thread(_complete, file, part, target)
    finally:
        await asyncio.to_thread(_discard, file, part)


def _opened(target: Path, part: Path) -> BinaryIO:
    try:
        refuse_odd_target("target", target)
        target.parent.mkdir(parents=True, exist_ok=True)
        return part.open("xb")
    except (OSError, ValueError) as error:
        raise _unwritable(target, error) from error


def _complete(file: BinaryIO, part: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.replace(target)


def _discard(file: BinaryIO, part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)


def _make_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError | ValueError) -> InvalidRequest:
    return invalid("target", str(target), f"it cannot be written: {getattr(error, 'strerror', None) or error}")


def _reason(error: NotRegular | OSError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def _bounded_members(tar: tarfile.TarFile, limit: DownloadLimit) -> list[tarfile.TarInfo]:
    members, size = [], 0
    for member in tar:
        size += member.size
        # before the next member is looked for: a compressed archive is unpacked to find it
        limit.check(size)
        members.append(member)
        if len(members) > MAX_MEMBERS:
            raise tarfile.TarError(f"it has more than {MAX_MEMBERS} members")
    return members


def unpack_archive(archive: Path, target: Path, *, max_bytes: int | None = None) -> list[Path]:
    """Unpack a tar archive into the folder ``target`` and return its files. Never writes outside ``target``.

    Raises:
        InvalidRequest: ``archive`` is no regular file, ``target`` no folder, or the files together are larger than
            ``max_bytes``.
        MalformedAnswer: the file is not a tar archive, is truncated, has too many members, or a member or link that
            leads outside ``target``, or a device.
    """
    try:
        opened = open_regular(archive)
    except (NotRegular, OSError) as error:
        raise invalid("archive", str(archive), f"it {_reason(error)}; name an existing file") from None
    try:
        with opened, tarfile.open(fileobj=opened) as tar:
            _make_folder(target)
            members = _bounded_members(tar, DownloadLimit(max_bytes))
            tar.extractall(target, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MalformedAnswer(f"the archive {archive.name} cannot be unpacked: {error}", backend=BACKEND) from error
    return [target / member.name for member in members if member.isfile()]
