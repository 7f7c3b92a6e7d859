"""The shared check: how often it is made."""

import pytest

from nsai_work.worker.probes import shared_check
from nsai_work.worker.probes.shared_check import SharedCheck


class Clock:
    """A clock that the check moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.checks = 0

    def check(self, takes_s: float) -> int:
        self.now += takes_s
        self.checks += 1
        return self.checks


@pytest.mark.parametrize(("takes_s", "good_for_s"), [(0.001, 1.0), (0.5, 4.5), (7.0, 63.0)])
def test_a_check_that_takes_long_is_made_less_often(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, good_for_s: float
) -> None:
    """Counting millions of jobs must not occupy the database of a worker that is scraped."""
    clock = Clock()
    monkeypatch.setattr(shared_check, "monotonic", lambda: clock.now)
    shared = SharedCheck(lambda: clock.check(takes_s), max_age_s=1.0, patience_s=60, max_share=0.1)

    assert shared.result() == 1
    clock.now += good_for_s - 0.01
    assert shared.result() == 1
    clock.now += 0.02
    assert shared.result() == 2


def test_a_check_that_fails_late_is_made_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was away has an answer when it is back."""
    clock = Clock()
    monkeypatch.setattr(shared_check, "monotonic", lambda: clock.now)

    def fail_once() -> int:
        if clock.check(10.0) == 1:
            raise ConnectionError
        return clock.checks

    shared = SharedCheck(fail_once, max_age_s=1.0, patience_s=60, max_share=0.1)
    with pytest.raises(ConnectionError):
        shared.result()
    clock.now += 1.01

    assert shared.result() == 2
