"""Download and unpacking of checkpoint archives."""

import asyncio
import os
import secrets
import tarfile
from pathlib import Path

from backends.tinkex.errors import BACKEND
from backends.tinkex.wire.transport import HttpTransport
from crucible.errors import MalformedAnswer


async def download_file(transport: HttpTransport, url: str, target: Path, *, authenticated: bool) -> None:
    """Download to a temporary file beside ``target`` and rename it once complete.

    Raises as ``HttpTransport.download``.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            async for block in transport.download(url, authenticated=authenticated):
                await asyncio.to_thread(file.write, block)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def unpack_archive(archive: Path, target: Path) -> list[Path]:
    """Unpack a tar archive into the folder ``target`` and return its files. Never writes outside ``target``.

    Raises:
        MalformedAnswer: the file is not a tar archive, is truncated, or has a member or link that leads outside
            ``target``, or a device.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            tar.extractall(target, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MalformedAnswer(f"the archive {archive.name} cannot be unpacked: {error}", backend=BACKEND) from error
    return [target / member.name for member in members if member.isfile()]
