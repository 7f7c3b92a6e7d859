"""The address of a checkpoint, as a user or a server wrote it."""

from dataclasses import dataclass
from typing import Final, Union

from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath
from crucible.errors import InvalidRequest

_MAX_CHARS: Final = 4096
_ALLOWED: Final = (
    "give the path that the service returned for a save, such as tinker://RUN/weights/NAME: "
    f"at most {_MAX_CHARS} printable characters"
)


@dataclass(frozen=True, slots=True)
class CheckpointAddress:
    """A checkpoint's address: the text that is sent to the server unchanged, and its parts where they are known.

    ``parts`` is None for a text of another form than ``tinker://RUN/KIND/NAME``: servers have forms of their own,
    and only they know what an address means.
    """

    text: str
    parts: ParsedCheckpointTinkerPath | None = None

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, value: Union[str, "CheckpointAddress"], *, field: str = "path") -> "CheckpointAddress":
        """Parse an address; return one that is already parsed unchanged.

        Raises:
            InvalidRequest: naming ``field``, when the text is empty, too long or not printable.
        """
        if isinstance(value, CheckpointAddress):
            return value
        if not isinstance(value, str) or not value.strip() or len(value) > _MAX_CHARS or not value.isprintable():
            raise InvalidRequest.of(field, value, _ALLOWED, backend="tinkex")
        try:
            return cls(value, ParsedCheckpointTinkerPath.from_tinker_path(value, field=field))
        except InvalidRequest:
            return cls(value)

    def required_parts(self, field: str) -> ParsedCheckpointTinkerPath:
        """The parts, for requests that name the run. Raises InvalidRequest when they are not known."""
        return self.parts or ParsedCheckpointTinkerPath.from_tinker_path(self.text, field=field)
