"""The standby: what a takeover needs is there before it is needed, within a bound."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from nsai_work import submit
from nsai_work.clock import SystemClock
from nsai_work.data.rendering import datums
from nsai_work.job import Job, Priority
from nsai_work.store import AsyncStore, ClaimRequest
from nsai_work.store.records import Outcome, Selection
from nsai_work.worker import standby as standby_module
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.standby import Standby
from nsai_work.worker.worker_store import open_worker_store
from tests.rig import Rig, command


def _training(folder: Path, name: str) -> Job:
    data = folder / f"{name}.jsonl"
    rows = ({"prompt": f"{name} {number}", "completion": "yes"} for number in range(4))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    payload = {"base_model": "tiny-lm", "data": {"path": str(data)}, "max_steps": 2}
    return Job.parse({"id": name, "kind": "training_step", "backend": "fake", "payload": payload})


async def _prepared(
    rig: Rig, jobs: Iterable[Job], selection: Selection | None = None
) -> tuple[frozenset[str], frozenset[str], int]:
    """The jobs that a worker is prepared for while others run them, and after these have ended; and how many sets
    of rendered data it held meanwhile."""
    settings = rig.settings()
    owner = AsyncStore(rig.store.database, worker_id="owner")
    for job in jobs:
        submit(job, settings)
    claims = await owner.claim(ClaimRequest("owner", 100, 60.0))
    store, backends = await open_worker_store(settings, SystemClock()), BackendPool(SystemClock())
    standby = Standby(store, backends, selection or Selection(), interval_s=60)
    before = len(datums._shared)
    await standby.prepare()
    during, held = standby.prepared, len(datums._shared) - before
    for claim in claims:
        await owner.finish(claim, Outcome.succeeded())
    await standby.prepare()
    after = standby.prepared
    await backends.close()
    await store.close()
    await owner.close()
    return during, after, held


def test_a_worker_is_prepared_for_the_jobs_of_others(embedded: Rig) -> None:
    """Their data is rendered and shared with the run to come. It is let go when they have ended."""
    jobs = [_training(embedded.folder, "first"), _training(embedded.folder, "second"), command(id="other")]

    during, after, held = asyncio.run(_prepared(embedded, jobs))

    assert during == {"first", "second", "other"}
    assert held == 2
    assert after == frozenset()


def test_what_a_standby_holds_is_bounded(embedded: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size of the files: the data of the second job stays on the disk."""
    jobs = [_training(embedded.folder, "first"), _training(embedded.folder, "second")]
    monkeypatch.setattr(standby_module, "MAX_DATA_BYTES", (embedded.folder / "first.jsonl").stat().st_size)

    assert asyncio.run(_prepared(embedded, jobs))[2] == 1


def test_a_worker_prepares_only_for_jobs_that_it_could_run(embedded: Rig) -> None:
    """One of other priorities leaves them alone."""
    selection = Selection(priorities=(Priority.REALTIME,))

    during, _, held = asyncio.run(_prepared(embedded, [_training(embedded.folder, "batch")], selection))

    assert (during, held) == (frozenset(), 0)
