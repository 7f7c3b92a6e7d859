"""The packed form of the turns of rollouts."""

import contextlib
import json
import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsai_work.errors import UnreadableJournal
from nsai_work.journal.rollouts import StoredTurn
from nsai_work.training.rollouts.episodes.turns import Turn, packed, unpacked

WRITTEN = "02abc6ea6b0c4fb8970255e991e295c498bc24ecde21caad4e4a3ac62057026923a86b8d80cee56264624e4c62008186fdfb00"


def stored(data: bytes) -> StoredTurn:
    """A row with this data."""
    return StoredTurn(step=3, generation=1, group=2, member=1, attempt=0, turn=4, data=data)


def turn_of(**fields: Any) -> Turn:
    """A turn of two tokens."""
    base: dict[str, Any] = {
        "messages": ({"role": "user", "content": "Guess."},),
        "answer": {"role": "assistant", "content": "a\nb"},
        "kept": 0,
        "prompt": (1, 2, 3),
        "tokens": (97, 98),
        "logprobs": (-0.5, -0.25),
        "stopped": True,
    }
    return Turn(**base | fields)


tokens = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 300), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
turns = st.builds(
    turn_of,
    messages=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=3),
    kept=st.integers(0, 2**53),
    prompt=tokens,
    tokens=tokens,
    logprobs=st.lists(floats | st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20),
    stopped=st.booleans(),
    sequence_id=st.none() | st.text(max_size=20),
)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(turns)
def test_a_turn_is_unpacked_as_it_was(turn: Turn) -> None:
    """To the last bit of each number, the sign of a zero included."""
    again = unpacked(stored(packed(turn)))
    assert again == turn
    assert repr(again.logprobs) == repr(turn.logprobs)


def test_a_turn_of_an_earlier_version_is_unpacked() -> None:
    """It is JSON alone, as other workers of the job may have written it."""
    turn = turn_of()
    data = zlib.compress(json.dumps(turn.model_dump(), separators=(",", ":")).encode())
    assert unpacked(stored(data)) == turn


def test_the_form_of_stored_turns_stays() -> None:
    """What is in the stores of users must be read by every later version: this one was written by the first."""
    data = bytes.fromhex(WRITTEN)
    assert unpacked(stored(data)) == turn_of()


def test_numbers_take_less_than_as_json() -> None:
    """Log-probabilities of 32 bits above all, which a service gives: JSON writes 17 digits of each."""
    draw = random.Random(0)
    logprobs = [float(draw.randrange(2**23) - 2**23) / 2**20 for _ in range(256)]
    turn = turn_of(tokens=[draw.randrange(100_000) for _ in logprobs], logprobs=logprobs)
    as_json = zlib.compress(json.dumps(turn.model_dump(), separators=(",", ":")).encode())
    assert len(packed(turn)) < 0.75 * len(as_json)


@pytest.mark.parametrize("place", range(0, 90, 9))
def test_a_damaged_turn_is_named(place: int) -> None:
    """Cut off anywhere, or with another byte, it is an error of the journal or the turn it was, never another
    exception."""
    data = packed(turn_of())
    with pytest.raises(UnreadableJournal, match="step 3, group 2, member 1, turn 4"):
        unpacked(stored(data[: min(place, len(data) - 1)]))
    changed = bytearray(data)
    changed[place % len(data)] ^= 0x55
    with contextlib.suppress(UnreadableJournal):
        unpacked(stored(bytes(changed)))
