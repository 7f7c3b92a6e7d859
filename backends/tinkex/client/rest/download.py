"""Download and unpacking of checkpoint archives."""

import asyncio
import os
import secrets
import tarfile
from pathlib import Path
from typing import BinaryIO

from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.wire.transport import HttpTransport
from crucible.errors import InvalidRequest, MalformedAnswer
from nsai_work.user_paths import NotRegular, open_regular, refuse_odd_target


async def download_file(transport: HttpTransport, url: str, target: Path, *, authenticated: bool) -> None:
    """Download to a temporary file beside ``target`` and rename it once complete.

    Raises as ``HttpTransport.download``; InvalidRequest: the file cannot be written.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    file = await asyncio.to_thread(_opened, target, part)
    try:
        async for block in transport.download(url, authenticated=authenticated):
            await asyncio.to_thread(file.write, block)
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


def unpack_archive(archive: Path, target: Path) -> list[Path]:
    """Unpack a tar archive into the folder ``target`` and return its files. Never writes outside ``target``.

    Raises:
        InvalidRequest: ``archive`` is no regular file, or ``target`` no folder.
        MalformedAnswer: the file is not a tar archive, is truncated, or has a member or link that leads outside
            ``target``, or a device.
    """
    try:
        opened = open_regular(archive)
    except (NotRegular, OSError) as error:
        raise invalid("archive", str(archive), f"it {_reason(error)}; name an existing file") from None
    try:
        with opened, tarfile.open(fileobj=opened) as tar:
            _make_folder(target)
            members = tar.getmembers()
            tar.extractall(target, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MalformedAnswer(f"the archive {archive.name} cannot be unpacked: {error}", backend=BACKEND) from error
    return [target / member.name for member in members if member.isfile()]
