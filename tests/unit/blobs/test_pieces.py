"""Pieces give back any content, of any size, and say so when they are damaged."""

import io
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsai_work.blobs.pieces import MAX_STORED_BYTES, PIECE_BYTES, DamagedPiece, cut, pack, unpack

SIZES = st.builds(
    lambda pieces, off: max(0, pieces * PIECE_BYTES + off), st.integers(0, 2), st.integers(-3, 3)
) | st.integers(0, 4096)


@given(size=SIZES, seed=st.integers(0, 2**32), random_bytes=st.booleans())
@example(size=PIECE_BYTES, seed=0, random_bytes=True)
def test_any_content_comes_back(size: int, seed: int, random_bytes: bool) -> None:
    """Around the borders of pieces too; no stored piece is over 1 MiB, even if nothing can be compressed."""
    generator = random.Random(seed)
    content = generator.randbytes(size) if random_bytes else (generator.randbytes(7) * (size // 7 + 1))[:size]

    pieces = [pack(part) for part in cut(io.BytesIO(content))]

    assert b"".join(map(unpack, pieces)) == content
    assert len(pieces) == -(-size // PIECE_BYTES)
    assert all(len(piece) <= MAX_STORED_BYTES for piece in pieces)


@given(content=st.binary(min_size=1, max_size=300), place=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_a_changed_byte_never_changes_the_content(content: bytes, place: int, bits: int) -> None:
    """It is found; or it was a bit of the frame's header that has no effect."""
    piece = bytearray(pack(content))
    piece[place % len(piece)] ^= bits

    try:
        found = unpack(bytes(piece))
    except DamagedPiece:
        return
    assert found == content


@given(content=st.binary(min_size=1, max_size=300), cut_off=st.integers(1, 10_000))
def test_a_piece_that_is_cut_or_longer_is_damaged(content: bytes, cut_off: int) -> None:
    """At any byte."""
    piece = pack(content)
    for wrong in (piece[: -min(cut_off, len(piece))], piece + b"\0"):
        with pytest.raises(DamagedPiece):
            unpack(wrong)


def test_a_frame_that_claims_more_than_a_piece_is_refused() -> None:
    """Before memory is reserved for it."""
    with pytest.raises(DamagedPiece, match="begin"):
        unpack(pack(bytes(PIECE_BYTES + 1)))
