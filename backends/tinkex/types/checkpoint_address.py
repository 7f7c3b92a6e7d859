"""The address of a checkpoint, as a user or a server wrote it."""

import re
from dataclasses import dataclass
from typing import Final, Union

from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath
from crucible.errors import InvalidRequest

_FOREIGN: Final = re.compile(r"(/|tinker://)[^/\s?#\x00-\x1f\x7f]+(/[^/\s?#\x00-\x1f\x7f]+)*")


@dataclass(frozen=True, slots=True)
class CheckpointAddress:
    """A checkpoint's address: the text that is sent to the server unchanged, and its parts where they are known.

    ``parts`` is None for the address of a server with a form of its own: an absolute path, or ``tinker://NAME``.
    """

    text: str
    parts: ParsedCheckpointTinkerPath | None = None

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: Union[str, "CheckpointAddress"], *, field: str = "path") -> "CheckpointAddress":
        """Parse an address; return one that is already parsed unchanged.

        Raises:
            InvalidRequest: naming ``field``, when no server would have written the text.
        """
        if isinstance(value, CheckpointAddress):
            return value
        try:
            return cls(value, ParsedCheckpointTinkerPath.from_tinker_path(value, field=field))
        except InvalidRequest:
            if isinstance(value, str) and _is_foreign(value):
                return cls(value)
            raise

    def required_parts(self, field: str) -> ParsedCheckpointTinkerPath:
        """The parts, for requests that name the run. Raises InvalidRequest when they are not known."""
        return self.parts or ParsedCheckpointTinkerPath.from_tinker_path(self.text, field=field)


def _is_foreign(text: str) -> bool:
    absolute = text.startswith("/")
    return (
        _FOREIGN.fullmatch(text) is not None and (absolute or text.count("/") == 2) and ".." not in text.split("/")
    )
