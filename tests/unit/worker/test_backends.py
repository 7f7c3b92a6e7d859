"""A worker takes no jobs for a backend that it cannot use."""

import pytest

from backends.fake import FakeBackend
from crucible.registry import why_unusable
from nsai_work.clock import SystemClock
from nsai_work.worker.backends import BackendPool


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a backend's packages is not installed."""
    monkeypatch.setattr(FakeBackend, "requires", ("json", "a_package_that_is_nowhere"))


@pytest.mark.usefixtures("lacking")
def test_a_backend_whose_package_is_missing_is_left_to_others() -> None:
    """The reason names the package alone that is missing; the others are taken."""
    assert why_unusable("fake") == "not installed: a_package_that_is_nowhere"

    available = BackendPool(SystemClock()).available()
    assert "fake" not in available
    assert "tinkex" in available


@pytest.mark.usefixtures("lacking")
def test_jobs_asked_for_by_name_are_taken_all_the_same() -> None:
    """They fail with the reason at once, where nobody else would come for them."""
    assert "fake" in BackendPool(SystemClock(), only_usable=False).available()


def test_it_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not search its packages at every claim."""
    pool = BackendPool(SystemClock())
    assert "fake" in pool.available()

    monkeypatch.setattr(FakeBackend, "requires", ("a_package_that_is_nowhere",))
    assert "fake" in pool.available()


def test_a_backend_goes_by_the_account_that_is_used_there() -> None:
    """Else by its own name; a name for a backend that is not here changes nothing."""
    available = BackendPool(SystemClock(), credentials={"fake": "team-a", "nowhere": "team-b"}).available()

    assert available["fake"] == "team-a"
    assert available["tinkex"] == "tinkex"
    assert "nowhere" not in available


def test_a_plug_in_that_is_not_there_is_unusable() -> None:
    """Whatever is wrong with it."""
    assert "no backend is called 'nowhere'" in (why_unusable("nowhere") or "")
    assert why_unusable("tinkex") is None
