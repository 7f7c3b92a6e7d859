"""Where a page lies in a list."""

from backends.tinkex.types.wire_record import ReadRecord


class Cursor(ReadRecord):
    """``offset`` and ``limit`` as asked, and how many there are."""

    offset: int = 0
    limit: int = 0
    total_count: int = 0

    @property
    def next_offset(self) -> int | None:
        """Where the next page begins; None after the last."""
        end = self.offset + self.limit
        return end if self.limit > 0 and end < self.total_count else None
