"""Turns of rollouts: what the model saw and sampled, and their compressed form in the journal."""

import json
import zlib
from collections.abc import Sequence
from itertools import takewhile
from operator import eq
from typing import Any

from pydantic import ValidationError

from crucible.token_sampler import TokenSample
from crucible.values.record import Record
from crucible.values.scalars import Count
from nsai_work.errors import UnreadableJournal
from nsai_work.rollout_journal import StoredTurn


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
    """Return the compressed form of a turn."""
    return zlib.compress(json.dumps(turn.model_dump(), separators=(",", ":")).encode())


def unpacked(stored: StoredTurn) -> Turn:
    """Return a turn of the journal.

    Raises:
        UnreadableJournal: its data is damaged.
    """
    try:
        return Turn.model_validate_json(zlib.decompress(stored.data))
    except (zlib.error, ValidationError) as error:
        place = f"step {stored.step}, group {stored.group}, member {stored.member}, turn {stored.turn}"
        raise UnreadableJournal(f"nsai_rollout_turns, row of {place}: {error}") from error


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
