"""Buffers are used again once no view of them is left, and never before."""

import gc
import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex.wire.body import EncodedBody
from backends.tinkex.wire.buffers import BufferPool

PIECES = st.lists(st.binary(max_size=40), max_size=8)


def joined(pool: BufferPool, pieces: list[bytes]) -> memoryview:
    """All pieces, each made when the one before has been copied."""
    return pool.joined(([piece] for piece in pieces), sum(map(len, pieces)))


def address(view: memoryview) -> int:
    """Where a view's memory is."""
    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data)


@given(batches=st.lists(st.tuples(PIECES, st.booleans()), max_size=12))
def test_bytes_that_are_held_stay_as_they_are(batches: list[tuple[list[bytes], bool]]) -> None:
    """Whatever is joined while they are held, and whichever of them are let go."""
    pool = BufferPool(max_bytes=200_000)
    held = []
    for pieces, holds in batches:
        view = joined(pool, pieces)
        assert bytes(view) == b"".join(pieces)
        if holds:
            held.append((view, pieces))
    for view, pieces in held:
        assert bytes(view) == b"".join(pieces)


@given(pieces=st.lists(st.binary(max_size=40), max_size=8), expected=st.integers(0, 200), times=st.integers(1, 900))
def test_an_expected_size_need_not_be_right(pieces: list[bytes], expected: int, times: int) -> None:
    """More bytes than expected move to a larger buffer; fewer leave the rest of it alone."""
    pool = BufferPool()
    held = joined(pool, [b"held"])
    parts = [pieces] * times
    view = pool.joined(iter(parts), expected)
    assert bytes(view) == b"".join(pieces) * times
    assert bytes(held) == b"held"


def test_memory_that_is_let_go_is_used_again() -> None:
    """Also by a smaller request; a view of a view keeps it."""
    pool = BufferPool()
    view = joined(pool, [bytes(100_000)])
    first = address(view)
    part = view[10:20]
    del view
    gc.collect()
    other = joined(pool, [bytes(100_000)])
    assert address(other) != first
    del part
    gc.collect()
    assert address(joined(pool, [bytes(90_000)])) == first


def test_a_pool_keeps_no_more_than_its_limit() -> None:
    """A larger request gets memory of its own; a free buffer that is too small makes room."""
    pool = BufferPool(max_bytes=200_000)
    assert len(joined(pool, [bytes(300_000)])) == 300_000
    first = joined(pool, [bytes(150_000)])
    assert len(joined(pool, [bytes(150_000)])) == 150_000
    del first
    grown = address(joined(pool, [bytes(190_000)]))
    assert address(joined(pool, [bytes(190_000)])) == grown


def test_threads_share_no_buffer() -> None:
    """Each sees its own bytes."""
    pool = BufferPool()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            view = joined(pool, [bytes([number]) * 1000])
            if bytes(view) != bytes([number]) * 1000:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(sizes=st.lists(st.integers(0, 700_000), max_size=3))
def test_a_body_of_large_pieces_is_streamed_in_blocks(sizes: list[int]) -> None:
    """Nothing is lost or doubled, and no block holds a copy of a whole batch."""
    pieces = [bytes([number]) * size for number, size in enumerate(sizes, start=1)]
    blocks = list(EncodedBody(pieces).blocks())
    assert b"".join(blocks) == b"".join(pieces)
    assert all(len(block) < 2 * 256 * 1024 for block in blocks)
