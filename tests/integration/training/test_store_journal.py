"""The journal in the database keeps the driver's contract: what holds in memory holds there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nsai_work.clock import SystemClock
from nsai_work.journal import Journal, JournalSnapshot
from nsai_work.store import Claim, ClaimRequest, Outcome, Store
from nsai_work.store.async_store import AsyncStore
from nsai_work.store.journal.adapter import StoreJournal
from tests.integration.training.harness import Killed, Reaper, Scene, payload_of
from tests.integration.training.service import Service
from tests.working_store import open_working_store, selection

pytestmark = pytest.mark.anyio


class StoredScene(Scene):
    """A scene whose journal lies in the database."""

    def keep_in(self, store: Store) -> None:
        """Submit the job to a store."""
        self.store, self.writer = store, AsyncStore(store.database)
        self.owner: Claim | None = None
        store.submit([self.job])

    def claim(self) -> Journal:
        if self.owner is not None:
            self.store.requeue(self.owner, Outcome.released("the worker is gone"))
        [self.owner] = self.store.claim(ClaimRequest("w1", 1, 60.0, selection(backends={"tinkex": "x"})))
        return StoreJournal(self.writer, self.owner)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty SQLite store."""
    opened = open_working_store(f"sqlite:///{tmp_path}/jobs.db", SystemClock())
    yield opened
    opened.close()


def told(snapshot: JournalSnapshot) -> dict[str, Any]:
    """All that a journal says, but when it was written."""
    untimed = {"recorded_at", "created_at", "expires_at"}

    def plain(records: Sequence[Any]) -> list[dict[str, Any]]:
        return [record.model_dump(exclude=untimed) for record in records]

    return {
        "runs": plain(snapshot.runs),
        "steps": plain(snapshot.steps),
        "superseded": plain([snapshot.superseded[step] for step in sorted(snapshot.superseded)]),
        "intents": plain(snapshot.open_intents),
        "checkpoints": sorted(plain(snapshot.checkpoints), key=lambda row: str(row["name"])),
        "last_seq_id": snapshot.last_seq_id,
    }


@pytest.mark.parametrize(
    ("service", "kills"),
    [
        ({}, []),
        ({}, [31, 22, 40]),
        ({"replays": False}, [31, 47, 12]),
        ({"replays": False, "restores_optimizer": False}, [35]),
    ],
    ids=["undisturbed", "warm", "restored", "cold"],
)
async def test_both_journals_tell_the_same(
    tmp_path: Path, store: Store, service: dict[str, Any], kills: list[int]
) -> None:
    """The same deaths over the same service: after each of them, and at the end."""
    remembered = Scene(payload_of(tmp_path), Service(**service))
    stored = StoredScene(payload_of(tmp_path), Service(**service))
    stored.keep_in(store)
    for kill_at in [*kills, 1_000_000]:
        results = [await attempt(scene, kill_at) for scene in (remembered, stored)]
        assert results[0] == results[1]
        journals = (remembered.claim(), stored.claim())
        assert told(await journals[1].load()) == told(await journals[0].load())
    await stored.writer.close()


async def attempt(scene: Scene, kill_at: int) -> dict[str, Any] | None:
    """One owner's attempt: its result, or None when it died."""
    try:
        return await scene.drive(reaper=Reaper(kill_at))
    except Killed:
        return None


async def test_every_step_is_one_event(tmp_path: Path, store: Store) -> None:
    """With what a progress bar needs, and in its place among the others."""
    scene = StoredScene(payload_of(tmp_path))
    scene.keep_in(store)
    await scene.drive()
    await scene.writer.close()
    events = [event for event in store.events(scene.job.id) if event.name == "step"]
    assert [event.data["step"] for event in events] == list(range(1, 8))
    assert {"loss", "tokens", "tokens_per_s", "total_steps", "learning_rate"} <= set(events[-1].data)
