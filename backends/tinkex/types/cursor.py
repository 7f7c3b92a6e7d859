"""Pagination of lists."""

from backends.tinkex.types.wire_record import ReadRecord


class Cursor(ReadRecord):
    """The position of a page: the requested ``offset`` and ``limit``, and the total count."""

    offset: int = 0
    limit: int = 0
    total_count: int = 0

    @property
    def next_offset(self) -> int | None:
        """The offset of the next page; None after the last."""
        end = self.offset + self.limit
        return end if self.limit > 0 and end < self.total_count else None
