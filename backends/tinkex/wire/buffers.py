"""Memory for encoded requests, used again and again: most of what a large copy costs is new memory."""

import threading
from collections.abc import Sequence
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

    def joined(self, pieces: Sequence[Piece]) -> memoryview:
        """Return all bytes of the pieces, copied into a buffer that is not used again while the view exists."""
        view = self._free(sum(map(len, pieces)))
        begin = 0
        for piece in pieces:
            end = begin + len(piece)
            view[begin:end] = piece
            begin = end
        return view

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
