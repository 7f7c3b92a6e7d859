"""A worker claims no jobs for a backend that it cannot use."""

import asyncio

import pytest

from backends.fake import FakeBackend
from crucible.errors import CredentialMissing
from crucible.registry import why_unusable
from nsai_work.clock import SystemClock
from nsai_work.worker.attempts import backends
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.declines import DeclinedJobs


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


def test_a_backend_that_is_installed_later_is_found_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not looked for at every claim."""
    looks: list[str] = []
    monkeypatch.setattr(
        backends, "backend_names", lambda: (looks.append("look"), ("fake", "tinkex")[: len(looks)])[1]
    )
    clock = _Clock()
    pool = BackendPool(clock)
    assert [*pool.available()] == [*pool.available()] == ["fake"]

    clock.steady += 1
    assert [*pool.available()] == ["fake", "tinkex"]
    assert len(looks) == 2


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


class _Clock(SystemClock):
    """A clock whose monotonic time the test sets."""

    steady = 1000.0

    def monotonic(self) -> float:
        return self.steady


def test_a_backend_without_its_key_is_declined_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute, not for each job; when it has its key, its jobs are claimed again."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.org/v1")
    usable: list[bool] = []
    clock = _Clock()
    pool = BackendPool(clock, on_usable=lambda: usable.append(True))

    async def scenario() -> None:
        assert "openai" in pool.available()
        for _ in range(2):
            with pytest.raises(CredentialMissing):
                await pool.get("openai")
        assert "openai" not in pool.available()
        assert "OPENAI_API_KEY" in pool.declined()["openai"]

        clock.steady += 59
        await pool.check_declined()
        assert "openai" not in pool.available()
        clock.steady += 2
        await pool.check_declined()
        assert "openai" not in pool.available()
        monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
        await pool.check_declined()
        assert (usable, pool.declined().get("openai") is None) == ([], False)
        clock.steady += 61
        await pool.check_declined()

        assert usable == [True]
        assert "openai" in pool.available()
        assert "openai" not in pool.declined()
        await pool.close()

    asyncio.run(scenario())


def test_a_package_that_is_installed_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a restart of the worker."""
    clock = _Clock()
    pool = BackendPool(clock)
    monkeypatch.setattr(FakeBackend, "requires", ("a_missing_package",))
    assert "fake" not in pool.available()
    assert pool.declined()["fake"] == "not installed: a_missing_package"

    monkeypatch.setattr(FakeBackend, "requires", ())
    clock.steady += 61
    asyncio.run(pool.check_declined())

    assert "fake" in pool.available()


def test_declined_jobs_are_forgotten_after_a_minute() -> None:
    """A job that is declined again counts from then on."""
    clock = _Clock()
    declined = DeclinedJobs(clock)
    declined.add(1)
    clock.steady += 30
    declined.add(2)
    assert declined.seqs() == (1, 2)
    clock.steady += 30
    assert declined.seqs() == (2,)
    declined.add(2)
    clock.steady += 59
    assert declined.seqs() == (2,)
    clock.steady += 1
    assert declined.seqs() == ()
