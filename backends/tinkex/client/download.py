"""Files from a server, whole or not at all."""

import asyncio
import os
import secrets
import tarfile
from pathlib import Path

from backends.tinkex.errors import BACKEND
from backends.tinkex.wire.transport import Transport
from crucible.errors import MalformedAnswer


async def download_file(transport: Transport, url: str, target: Path, *, authenticated: bool) -> None:
    """Stream into a file beside ``target``; put it in place when whole. Raises as ``Transport.download``."""
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
    """Unpack a tar archive into ``target``; returns the files.

    Raises:
        MalformedAnswer: it is no tar archive, is cut short, or holds a member that would leave ``target``, a link
            that does, or a device. Nothing outside ``target`` is ever written.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            tar.extractall(target, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MalformedAnswer(f"the archive {archive.name} cannot be unpacked: {error}", backend=BACKEND) from error
    return [target / member.name for member in members if member.isfile()]
