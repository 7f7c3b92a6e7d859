"""Decompression of HTTP bodies with a limit that holds while a body is decompressed.

The usual decoders return all output of a block at once: 131 kB of zstd become 4.2 GB in memory before anyone can
count them. These return at most a few megabytes at a time, and stop at the limit.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final

ACCEPT_ENCODING: Final = "gzip, deflate, zstd"
"""The value of the header Accept-Encoding: what ``BodyDecoder`` decodes."""

_MAX_ENCODINGS: Final = 3
_BLOCK_BYTES: Final = 256 * 1024
_ZSTD_SLICE_BYTES: Final = 256
"""A byte of zstd becomes up to 32 KiB: input is decompressed in slices of this size."""
_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""The largest window that RFC 9659 allows for this content encoding."""
_ZSTD_OUTPUT_BYTES: Final = 32 * 1024


class InvalidBody(ValueError):
    """A body is not in its declared encoding, or ends early."""


class UnknownEncoding(InvalidBody):
    """A body has an encoding that is not supported."""


class BodyTooLarge(InvalidBody):
    """A body is larger than its limit."""


class BodyDecoder:
    """Decodes a body block by block. ``limit`` bounds the decoded bytes; None bounds only each block."""

    def __init__(self, encoding: str, limit: int | None) -> None:
        """Raises UnknownEncoding."""
        names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
        unknown = next((name for name in names if name not in _DECODERS), None)
        if unknown is not None or len(names) > _MAX_ENCODINGS:
            raise UnknownEncoding(
                f"content-encoding {encoding[:100]!r} is not supported; allowed: {ACCEPT_ENCODING}"
            )
        self._decoders = [_DECODERS[name]() for name in reversed(names)]
        self._limit = limit
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the body.

        Raises:
            BodyTooLarge: the decoded body exceeds the limit.
            InvalidBody: the bytes are not in the declared encoding.
        """
        for block in _chained(self._decoders, data):
            self._size += len(block)
            if self._limit is not None and self._size > self._limit:
                raise BodyTooLarge(f"the body is larger than {self._limit} bytes")
            yield block

    def finish(self) -> None:
        """Check that the body is complete. Raises InvalidBody."""
        for decoder in self._decoders:
            decoder.finish()


def _chained(decoders: Sequence["_Decoder"], data: bytes) -> Iterator[bytes]:
    if not decoders:
        if data:
            yield data
        return
    for block in decoders[0].feed(data):
        yield from _chained(decoders[1:], block)


class _Decoder(ABC):
    """A decoder of a content encoding. Concatenated streams count as one body."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes in blocks of bounded size."""

    @abstractmethod
    def finish(self) -> None:
        """Raise InvalidBody if a stream is incomplete."""


class _Zlib(_Decoder):
    _window_bits = zlib.MAX_WBITS

    def __init__(self) -> None:
        self._inner: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or self._inner is not None:
            if self._inner is None:
                self._inner = zlib.decompressobj(self._window_bits)
            try:
                block: bytes = self._inner.decompress(data, _BLOCK_BYTES)
            except zlib.error as error:
                raise InvalidBody(f"the body cannot be decompressed: {error}") from None
            if block:
                yield block
            data = self._inner.unconsumed_tail
            if self._inner.eof:
                data, self._inner = self._inner.unused_data.lstrip(b"\0"), None
            elif not data and len(block) < _BLOCK_BYTES:
                return

    def finish(self) -> None:
        if self._inner is not None:
            raise InvalidBody("the compressed body is incomplete")


class _Gzip(_Zlib):
    _window_bits = zlib.MAX_WBITS | 16


class _Deflate(_Zlib):
    """zlib's format, which the standard means, or the raw one, which some servers send."""

    def __init__(self) -> None:
        super().__init__()
        self._head: bytes | None = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._head is not None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
            self._head = None
            if data[0] & 0x0F != zlib.DEFLATED or int.from_bytes(data[:2]) % 31:
                self._window_bits = -zlib.MAX_WBITS
        yield from super().feed(data)

    def finish(self) -> None:
        if self._head:
            raise InvalidBody("the compressed body is incomplete")
        super().finish()


class _Zstd(_Decoder):
    def __init__(self) -> None:
        import zstandard

        self._library = zstandard
        self._inner: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE_BYTES):
            piece = data[start : start + _ZSTD_SLICE_BYTES]
            while piece:
                if self._inner is None:
                    decompressor = self._library.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
                    self._inner = decompressor.decompressobj(write_size=_ZSTD_OUTPUT_BYTES)
                try:
                    block: bytes = self._inner.decompress(piece)
                except self._library.ZstdError as error:
                    raise InvalidBody(f"the body cannot be decompressed: {error}") from None
                if block:
                    yield block
                piece = b""
                if self._inner.eof:
                    piece, self._inner = self._inner.unused_data, None

    def finish(self) -> None:
        if self._inner is not None:
            raise InvalidBody("the compressed body is incomplete")


_DECODERS: Final[dict[str, type[_Decoder]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "zstd": _Zstd,
}
