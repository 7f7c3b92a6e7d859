"""zstd for request bodies and, on the server's side, their expansion within bounds."""

from typing import Final

from backends.tinkex.wire.body import Body
from backends.tinkex.wire.protobuf_read import ProtobufError

ZSTD: Final = "zstd"
_LEVEL: Final = 1


def compressed(body: Body) -> Body:
    """The same body in zstd, made piece by piece. Level 1: the network gains little from more, the step waits."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=body.size)
    made = [compressor.compress(block) for block in body.blocks()]
    made.append(compressor.flush())
    return Body([block for block in made if block], body.media_type, ZSTD)


def expanded(content: bytes, *, limit: int) -> bytes:
    """What was compressed. Raises ProtobufError when it is no zstd or expands beyond ``limit`` bytes."""
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor().stream_reader(content)
        whole = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise ProtobufError(f"the body is no zstd: {error}") from error
    if len(whole) > limit:
        raise ProtobufError(f"the body expands beyond {limit} bytes")
    return whole
