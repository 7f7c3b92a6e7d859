"""Memory for encoded requests, used again and again: most of what a large copy costs is new memory."""

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from backends.tinkex.wire.body import Piece

_MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
_MIN_BYTES: Final = 64 * 1024


class BufferPool:
    """Buffers that are free as soon as no view of them exists. Keeps at most ``max_bytes``; usable from threads."""

    def __init__(self, max_bytes: int = _MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: list[bytearray] = []

    def joined(self, parts: Iterable[Sequence[Piece]], size: int) -> memoryview:
        """Return all bytes of the parts' pieces, copied into a buffer that is not used again while the view exists.

        Each part is copied before the next is made, so that its own memory is free for that. ``size`` is the
        expected number of bytes; a larger buffer is taken when there are more.
        """
        view = self._free(size)
        begin = 0
        for pieces in parts:
            for piece in pieces:
                end = begin + len(piece)
                if end > len(view):
                    view = self._larger(view, begin, end)
                view[begin:end] = piece
                begin = end
        return view[:begin]

    def _larger(self, view: memoryview, begin: int, end: int) -> memoryview:
        """A buffer for ``end`` bytes at least, with the first ``begin`` of another."""
        larger = self._free(max(end, 2 * len(view)))
        larger[:begin] = view[:begin]
        return larger

    def _free(self, size: int) -> memoryview:
        with self._lock:
            for buffer in self._kept:
                if len(buffer) >= size and _is_free(buffer):
                    return memoryview(buffer)[:size]
            buffer = bytearray(max(size, _MIN_BYTES))
            self._keep(buffer)
            return memoryview(buffer)[:size]

    def _keep(self, buffer: bytearray) -> None:
        """Keep a buffer for later, in place of free ones that were too small."""
        kept = sum(map(len, self._kept))
        for other in list(self._kept):
            if kept + len(buffer) <= self._max_bytes:
                break
            if _is_free(other):
                self._kept.remove(other)
                kept -= len(other)
        if kept + len(buffer) <= self._max_bytes:
            self._kept.append(buffer)


def _is_free(buffer: bytearray) -> bool:
    """Return whether there is no view of the buffer: only then does Python let its length change."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True


POOL: Final = BufferPool()
"""The process's buffers."""
