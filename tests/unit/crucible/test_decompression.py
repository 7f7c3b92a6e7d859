"""Bodies are decompressed within a bound: no input makes more memory than its limit."""

import gzip
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from crucible.decompression import BodyDecoder, BodyTooLarge, InvalidBody, UnknownEncoding


def raw_deflate(data: bytes) -> bytes:
    """Without zlib's header, as some servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "identity": ("identity", bytes),
    "none": ("", bytes),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-Gzip", gzip.compress),
    "two gzip members": ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstandard.compress),
    "two zstd frames": ("zstd", lambda data: zstandard.compress(data[:7]) + zstandard.compress(data[7:])),
    "zstd in gzip": ("zstd, gzip", lambda data: gzip.compress(zstandard.compress(data))),
}
COMPRESSED = [name for name in ENCODERS if name not in ("identity", "none")]


def decoded(encoding: str, body: bytes, limit: int | None, pieces: int = 1) -> bytes:
    """The body, given in pieces."""
    decoder = BodyDecoder(encoding, limit)
    size = max(1, -(-len(body) // pieces))
    blocks = [block for start in range(0, len(body), size) for block in decoder.feed(body[start : start + size])]
    decoder.finish()
    return b"".join(blocks)


@given(
    data=st.binary(max_size=2000) | st.integers(0, 3_000_000).map(bytes),
    name=st.sampled_from(list(ENCODERS)),
    pieces=st.integers(1, 300),
)
def test_what_was_encoded_is_decoded(data: bytes, name: str, pieces: int) -> None:
    """In pieces of any size, with a limit that it just meets."""
    encoding, encode = ENCODERS[name]

    assert decoded(encoding, encode(data), len(data), pieces) == data
    assert decoded(encoding, encode(data), None, pieces) == data


@given(data=st.integers(1, 3_000_000).map(bytes), name=st.sampled_from(list(ENCODERS)), pieces=st.integers(1, 300))
def test_one_byte_over_the_limit_is_too_large(data: bytes, name: str, pieces: int) -> None:
    """Whatever the encoding."""
    encoding, encode = ENCODERS[name]
    with pytest.raises(BodyTooLarge, match=str(len(data) - 1)):
        decoded(encoding, encode(data), len(data) - 1, pieces)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_cut_body_is_invalid(name: str) -> None:
    """It is never taken for a shorter one."""
    encoding, encode = ENCODERS[name]
    body = encode(b"some text that is cut")
    with pytest.raises(InvalidBody):
        decoded(encoding, body[:-3], 1000)


@given(body=st.binary(max_size=500), encoding=st.sampled_from(["gzip", "deflate", "zstd", "gzip, zstd"]))
def test_any_bytes_are_decoded_or_invalid(body: bytes, encoding: str) -> None:
    """No other error."""
    try:
        decoded(encoding, body, 10_000, 3)
    except InvalidBody:
        return


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, br", "gzip, gzip, gzip, gzip", "\x1b[31m"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    """As are more than three of them."""
    with pytest.raises(UnknownEncoding, match="allowed: gzip, deflate, zstd"):
        BodyDecoder(encoding, 10)


def test_a_window_of_gigabytes_is_refused() -> None:
    """A frame may announce one in a few bytes."""
    frame = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    ).compressobj()
    body = frame.compress(b"x" * 1000) + frame.flush()
    with pytest.raises(InvalidBody):
        decoded("zstd", body, None)


BOMB = """
import gzip, resource, sys, tracemalloc, zlib
import zstandard
from crucible.decompression import BodyDecoder, BodyTooLarge
name, limit = sys.argv[1], int(sys.argv[2])
million = bytes(1 << 20)
count = 4000 if name.startswith("zstd") else 300
frame = {
    "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(),
    "zstd with its size": lambda: zstandard.ZstdCompressor(level=1).compressobj(size=count << 20),
    "gzip": lambda: zlib.compressobj(wbits=31),
    "deflate": lambda: zlib.compressobj(),
}[name]()
body = b"".join([*(frame.compress(million) for _ in range(count)), frame.flush()])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
decoder = BodyDecoder(name.partition(" ")[0], limit)
blocks = []
try:
    for block in decoder.feed(body):
        blocks.append(block)
except BodyTooLarge:
    pass
else:
    sys.exit("not refused")
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(len(body), count << 20, grown, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("name", ["zstd", "zstd with its size", "gzip", "deflate"])
@pytest.mark.parametrize("limit", [1_000_000, 64 << 20])
def test_a_bomb_takes_no_more_memory_than_the_limit(name: str, limit: int) -> None:
    """About 130 kB of zstd that would become 4.2 GB."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB, name, str(limit)], capture_output=True, text=True, timeout=100, check=True
    )
    size, whole, resident, traced = map(int, done.stdout.split())

    assert whole > 900 * size
    assert traced < limit + (24 << 20)
    assert resident < limit + (40 << 20)
