"""Small images for tests."""

import base64
import zlib
from pathlib import Path


def png(width: int, height: int, shade: int = 0) -> bytes:
    """A grey PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes([shade]) * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """The begin of a JPEG file, as far as its size."""
    frame = bytes([8]) + height.to_bytes(2) + width.to_bytes(2) + bytes([1, 1, 17, 0])
    return b"\xff\xd8\xff\xc0" + (len(frame) + 2).to_bytes(2) + frame


def data_url(content: bytes, kind: str = "png") -> str:
    """An image as a data: URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def written(path: Path, content: bytes) -> Path:
    """Write a file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
