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

from crucible.http.decompression import BodyDecoder, BodyTooLarge, InvalidBody, UnknownEncoding


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
import os, resource, sys, tracemalloc, zlib
import zstandard
from crucible.http.decompression import BodyDecoder, BodyTooLarge
million = bytes(1 << 20)

def deflated(compressor):
    # after a full flush, equal input becomes equal output
    first, *rest = (compressor.compress(million) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + rest[0] * 299

def framed(compressor):
    return b"".join([*(compressor.compress(million) for _ in range(4000)), compressor.flush()])

def grown_by(name, limit, body):
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
    return grown, tracemalloc.get_traced_memory()[1]

zstd = zstandard.ZstdCompressor(level=1)
for name, whole, encode in (
    ("zstd", 4000 << 20, lambda: framed(zstd.compressobj())),
    ("zstd with its size", 4000 << 20, lambda: framed(zstd.compressobj(size=4000 << 20))),
    ("gzip", 300 << 20, lambda: deflated(zlib.compressobj(wbits=31))),
    ("deflate", 300 << 20, lambda: deflated(zlib.compressobj())),
):
    body = encode()
    for limit in map(int, sys.argv[1:]):
        # in a process of its own, since a peak never falls
        if os.fork() == 0:
            print(name, limit, len(body), whole, *grown_by(name, limit, body), sep=",", flush=True)
            os._exit(0)
        if os.wait()[1]:
            sys.exit(f"{name} {limit}")
"""
LIMITS = (1_000_000, 64 << 20)


@pytest.fixture(scope="module")
def bombs() -> dict[tuple[str, int], list[int]]:
    """Compressed and whole size of each bomb, the growth of the process, and the peak of what Python allocated."""
    command = [sys.executable, "-c", BOMB, *map(str, LIMITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows = [line.split(",") for line in done.stdout.splitlines()]
    return {(name, int(limit)): [int(number) for number in numbers] for name, limit, *numbers in rows}


@pytest.mark.parametrize("name", ["zstd", "zstd with its size", "gzip", "deflate"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_bomb_takes_no_more_memory_than_the_limit(
    bombs: dict[tuple[str, int], list[int]], name: str, limit: int
) -> None:
    """About 130 kB of zstd that would become 4.2 GB."""
    size, whole, resident, traced = bombs[name, limit]

    assert whole > 900 * size
    assert traced < limit + (24 << 20)
    assert resident < limit + (40 << 20)
