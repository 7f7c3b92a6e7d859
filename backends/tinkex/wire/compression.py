"""zstd compression of request bodies."""

from typing import Final

from backends.tinkex.wire.body import EncodedBody

_ZSTD: Final = "zstd"
_LEVEL: Final = 1
"""Higher levels delay the step more than they save on the network."""


def compressed(body: EncodedBody) -> EncodedBody:
    """Return a body compressed with zstd, block by block."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=body.size)
    blocks = [compressor.compress(block) for block in body.blocks()]
    blocks.append(compressor.flush())
    return EncodedBody([block for block in blocks if block], body.media_type, _ZSTD)
