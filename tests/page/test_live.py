"""The stream of an open page: what changes is sent when it is committed, and the store's absence is said."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from nsai_work import Settings
from nsai_work.journal import StepRecord
from nsai_work.page.live_stream import message_of
from nsai_work.page.server import PageOptions, page_server
from nsai_work.store.records import ClaimRequest
from tests.page.runs import StoredRun, training_job
from tests.rig import WAIT_S
from tests.working_store import WorkingStore, selection


@dataclass
class Reader:
    """Reads the events of a stream: pairs of a name (empty for HTML) and data."""

    lines: AsyncIterator[str]

    async def next(self, name: str) -> Any:
        """The data of the next event of this name."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found, data = await self._event()
                if found == name:
                    return json.loads(data) if name else data

    async def _event(self) -> tuple[str, str]:
        name, data = "", []
        async for line in self.lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif not line and data:
                return name, "\n".join(data)
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def following(settings: Settings, path: str, **query: str) -> AsyncIterator[Reader]:
    """Serve the page, and follow one of its streams."""
    async with (
        page_server(settings, PageOptions()) as url,
        httpx.AsyncClient(timeout=WAIT_S) as client,
        client.stream("GET", f"{url}{path}", params=query) as stream,
    ):
        yield Reader(stream.aiter_lines())


def step(number: int, *, generation: int = 1) -> StepRecord:
    """A step with the loss 1 / number."""
    return StepRecord(step=number, epoch=0, loss=1 / number, tokens=10, learning_rate=1e-4, generation=generation)


def test_steps_are_sent_as_they_are_committed(settings: Settings, store: WorkingStore) -> None:
    """As numbers for the curve, and as figures in the page."""
    job = training_job()
    store.submit([job])
    (claim,) = store.claim(ClaimRequest("w", 1, 60.0, selection(backends={"tinkex": "a"})))
    store.complete_step(claim, step(1), 1)

    async def follow() -> None:
        async with following(settings, "/live/job", id=job.id) as reader:
            assert await reader.next("redraw") == {"step": 1}
            assert '<dd class="">1<' in await reader.next("")
            await asyncio.to_thread(store.complete_step, claim, step(2), 2)
            assert await reader.next("curve") == {"steps": [2], "loss": [0.5]}
            assert '<dd class="">2<' in await reader.next("")

    asyncio.run(follow())


def test_a_restore_asks_for_a_new_drawing(settings: Settings, store: WorkingStore) -> None:
    """Since points that were drawn are superseded."""
    job = training_job()
    store.submit([job])
    run = StoredRun(store, job, 80)
    run.write()

    async def follow() -> None:
        async with following(settings, "/live/job", id=job.id) as reader:
            assert await reader.next("redraw") == {"step": 80}
            await asyncio.to_thread(_restore, store, run.seq)
            assert await reader.next("redraw") == {"step": 60}

    asyncio.run(follow())


def _restore(store: WorkingStore, seq: int) -> None:
    from sqlalchemy import update

    from nsai_work.store.lifecycle.events import append_events
    from nsai_work.store.schema import steps

    with store.database.transaction() as tx:
        later = (steps.c.job_seq == seq) & (steps.c.step > 60)
        tx.connection.execute(update(steps).where(later).values(superseded_by=2))
        append_events(tx, [(seq, "resume.restored", {"generation": 2, "from_step": 60})])


def test_a_list_follows_all_jobs(settings: Settings, store: WorkingStore) -> None:
    """A new job appears, and a wait reason changes."""
    job = training_job("first")

    async def follow() -> None:
        async with following(settings, "/live/jobs") as reader:
            assert "No job was submitted yet" in await reader.next("")
            await asyncio.to_thread(store.submit, [job])
            assert "first" in await reader.next("")

    asyncio.run(follow())


@pytest.mark.parametrize("is_there", [True, False])
def test_a_store_goes_away_and_comes_back(settings: Settings, store: WorkingStore, is_there: bool) -> None:
    """The stream stays open and says both, also if it begins while the store is away."""
    store.submit([training_job("kept")])
    store.database.close()
    file = settings.home / "nsai-work.db"
    other = file.with_name("other.db")
    if not is_there:
        file.rename(other)

    async def follow() -> None:
        async with following(settings, "/live/jobs") as reader:
            if is_there:
                assert "kept" in await reader.next("")
                file.rename(other)
            assert "no job store" in (await reader.next("away"))["message"]
            other.rename(file)
            assert await reader.next("back") == {}

    asyncio.run(follow())


def test_texts_do_not_break_the_form_of_events() -> None:
    """Each line of the data has its field; a carriage return would end a line as well."""
    assert message_of("", "a\nb\r\nc\rd") == "data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert message_of("curve", "{}") == "event: curve\ndata: {}\n\n"
