"""Results are retained up to a number and a size."""

import numpy as np
import pytest

from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.service import promises
from backends.tinkex_dev.service.promises import LossOutputs, Plain, Promises


def test_the_oldest_results_are_dropped_beyond_the_size_limit(monkeypatch: pytest.MonkeyPatch):
    """Above the limit the oldest promise is 410 and refers to no result; the newest is there."""
    monkeypatch.setattr(promises, "_MAX_BYTES", 1000)
    table = Promises()
    created = [table.create("forward", "m") for _ in range(3)]

    for promise in created:
        table.resolve(promise, LossOutputs([{"logprobs": np.zeros(100, np.float32)}], {}))

    with pytest.raises(Refused) as refused:
        table.get(created[0].id)
    assert refused.value.status == 410
    assert created[0].result is None
    assert table.get(created[2].id).result is created[2].result


def test_an_unfinished_promise_is_never_dropped(monkeypatch: pytest.MonkeyPatch):
    """Also above the limit, an unresolved promise stays."""
    monkeypatch.setattr(promises, "_MAX_PROMISES", 1)
    table = Promises()
    unresolved = table.create("forward")
    for _ in range(3):
        table.resolve(table.create("optim_step"), Plain({}))

    assert table.get(unresolved.id) is unresolved
