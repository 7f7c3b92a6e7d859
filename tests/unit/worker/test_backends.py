"""A worker claims no jobs for a backend that it cannot use."""

import pytest

from backends.fake import FakeBackend
from crucible.registry import why_unusable
from nsai_work.clock import SystemClock
from nsai_work.worker.backends import BackendPool


@pytest.fixture
def missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose package is not installed."""
    monkeypatch.setattr(FakeBackend, "requires", ("json", "a_missing_package"))


@pytest.mark.usefixtures("missing_package")
def test_a_backend_whose_package_is_missing_is_unavailable() -> None:
    """The reason names only the missing package. Other backends remain available."""
    assert why_unusable("fake") == "not installed: a_missing_package"

    available = BackendPool(SystemClock()).available()
    assert "fake" not in available
    assert "tinkex" in available


@pytest.mark.usefixtures("missing_package")
def test_jobs_selected_by_id_are_claimed_nevertheless() -> None:
    """They fail at once with the reason: no other worker would run them."""
    assert "fake" in BackendPool(SystemClock(), only_usable=False).available()


def test_each_backend_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not search its packages for every claim."""
    pool = BackendPool(SystemClock())
    assert "fake" in pool.available()

    monkeypatch.setattr(FakeBackend, "requires", ("a_missing_package",))
    assert "fake" in pool.available()


def test_a_backend_has_the_name_of_its_account() -> None:
    """By default its own name. An account of a backend that is not installed has no effect."""
    available = BackendPool(SystemClock(), credentials={"fake": "team-a", "nowhere": "team-b"}).available()

    assert available["fake"] == "team-a"
    assert available["tinkex"] == "tinkex"
    assert "nowhere" not in available


def test_a_missing_plug_in_is_unusable() -> None:
    """Unlike an installed one, it has a reason."""
    assert "no backend is called 'nowhere'" in (why_unusable("nowhere") or "")
    assert why_unusable("tinkex") is None
