"""Turns of rollouts: what the model saw and sampled, and their compressed form in the journal."""

import json
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from operator import eq
from typing import Any, Final

from crucible.token_sampler import TokenSample
from crucible.values.record import Record
from crucible.values.scalars import Count
from nsai_work.errors import UnreadableJournal
from nsai_work.journal.rollouts import StoredTurn

_PACKED: Final = b"\x02"
"""The first byte of a packed turn; one that is JSON alone begins with that of zlib."""
_USUAL: Final = (
    b'{"messages":[{"role":"tool","tool_call_id":"call_","content":"{"role":"user","content":"'
    b'"}],"answer":{"role":"assistant","content":""},"kept":0,"stopped":false,"sequence_id":null,'
    b'"stopped":true,"sequence_id":null,"columns":[["H",],["H",],["f",]]}'
)
"""The text that most turns have in common. It is part of their form: another text is another form."""


class Turn(Record):
    """A turn of a rollout. ``messages`` are those that came before it, since the turn before; ``answer`` is the
    model's. The prompt has the first ``kept`` tokens of the turn before (its prompt and sampled tokens), then
    ``prompt``."""

    messages: tuple[dict[str, Any], ...]
    answer: dict[str, Any]
    kept: Count
    prompt: tuple[Count, ...]
    tokens: tuple[Count, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    sequence_id: str | None = None

    @property
    def sample(self) -> TokenSample:
        """The sampled answer."""
        return TokenSample(self.tokens, self.logprobs, self.stopped, self.sequence_id)


def full_prompt(turns: Sequence[Turn], number: int) -> list[int]:
    """Return the tokens that the model saw before a turn."""
    turn = turns[number]
    if number == 0:
        return list(turn.prompt)
    return [*full_sequence(turns, number - 1)[: turn.kept], *turn.prompt]


def full_sequence(turns: Sequence[Turn], number: int) -> list[int]:
    """Return the prompt of a turn, and what was sampled."""
    return [*full_prompt(turns, number), *turns[number].tokens]


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens that two sequences begin with alike."""
    return sum(1 for _ in takewhile(bool, map(eq, first, second)))


def packed(turn: Turn) -> bytes:
    """Return the compressed form of a turn: what JSON takes for its numbers costs more than all the rest."""
    header = turn.model_dump(exclude={"prompt", "tokens", "logprobs"})
    columns = [_column(turn.prompt, "BHIQ"), _column(turn.tokens, "BHIQ"), _column(turn.logprobs, "fd")]
    header["columns"] = [[kind, count] for kind, count, _ in columns]
    parts = [json.dumps(header, separators=(",", ":")).encode(), b"\n", *(data for _, _, data in columns)]
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS, zdict=_USUAL)
    return b"".join([_PACKED, compressor.compress(b"".join(parts)), compressor.flush()])


def unpacked(stored: StoredTurn) -> Turn:
    """Return a turn of the journal.

    Raises:
        UnreadableJournal: its data is damaged.
    """
    try:
        return _unpacked(stored.data)
    except (zlib.error, struct.error, ValueError, KeyError, TypeError) as error:
        place = f"step {stored.step}, group {stored.group}, member {stored.member}, turn {stored.turn}"
        raise UnreadableJournal(f"nsai_rollout_turns, row of {place}: {error}") from error


def _unpacked(data: bytes) -> Turn:
    if data[:1] != _PACKED:
        # as it was written until version 2 of this form: JSON alone
        return Turn.model_validate_json(zlib.decompress(data))
    decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS, zdict=_USUAL)
    head, _, rest = (decompressor.decompress(data[1:]) + decompressor.flush()).partition(b"\n")
    if not decompressor.eof:
        raise ValueError("it is cut off")
    header = json.loads(head)
    columns = []
    for kind, count in header.pop("columns"):
        size = count * struct.calcsize(f"<{kind}")
        columns.append(_numbers(kind, count, rest[:size]))
        rest = rest[size:]
    return Turn.model_validate({**header, **dict(zip(("prompt", "tokens", "logprobs"), columns, strict=True))})


def _column(numbers: Sequence[int] | Sequence[float], kinds: str) -> tuple[str, int, bytes]:
    """Return the first of these kinds, as struct names them, that holds all the numbers exactly, their count, and
    their bytes: all first ones, all second ones, and so on, which are alike."""
    for kind in kinds:
        layout, size = f"<{len(numbers)}{kind}", struct.calcsize(f"<{kind}")
        with suppress(struct.error, OverflowError):
            data = struct.pack(layout, *numbers)
            if struct.unpack(layout, data) == tuple(numbers):
                return kind, len(numbers), b"".join(data[number::size] for number in range(size))
    raise ValueError(f"numbers that none of {kinds} holds")


def _numbers(kind: str, count: int, data: bytes) -> tuple[Any, ...]:
    mixed = bytearray(len(data))
    size = struct.calcsize(f"<{kind}")
    for number in range(size):
        mixed[number::size] = data[number * count : (number + 1) * count]
    return struct.unpack(f"<{count}{kind}", mixed)


def current_turns(stored: Sequence[StoredTurn]) -> tuple[list[Turn], int]:
    """Return the turns of one rollout that count, and the newest attempt.

    A turn of a later run or attempt replaces the earlier one and all that followed it.
    """
    newest = {row.turn: row for row in sorted(stored, key=_age)}
    turns: list[Turn] = []
    while (row := newest.get(len(turns))) is not None and (not turns or _age(row) >= _age(newest[len(turns) - 1])):
        turns.append(unpacked(row))
    return turns, max((row.attempt for row in stored), default=0)


def _age(row: StoredTurn) -> tuple[int, int]:
    return row.generation, row.attempt
