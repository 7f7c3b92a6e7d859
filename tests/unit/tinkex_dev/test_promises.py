"""Answers are kept as long as there is room for them."""

import numpy as np
import pytest

from backends.tinkex_dev import promises
from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.promises import LossOutputs, Plain, Promises


def test_the_oldest_answers_go_when_room_ends(monkeypatch: pytest.MonkeyPatch):
    """More bytes than are kept: the oldest is 410 and holds nothing any more, the newest is there."""
    monkeypatch.setattr(promises, "_KEPT_BYTES", 1000)
    held = Promises()
    made = [held.make("forward", "m") for _ in range(3)]

    for promise in made:
        held.keep(promise, LossOutputs([{"logprobs": np.zeros(100, np.float32)}], {}))

    with pytest.raises(Refused) as refused:
        held.get(made[0].id)
    assert refused.value.status == 410
    assert made[0].result is None
    assert held.get(made[2].id).result is made[2].result


def test_an_unfinished_promise_is_never_dropped(monkeypatch: pytest.MonkeyPatch):
    """Room or not, what is waited for stays."""
    monkeypatch.setattr(promises, "_KEPT", 1)
    held = Promises()
    waiting = held.make("forward")
    for _ in range(3):
        held.keep(held.make("optim_step"), Plain({}))

    assert held.get(waiting.id) is waiting
