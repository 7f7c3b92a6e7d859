"""Blobs: written once for each content, read with their digest checked, pruned when no job names them."""

import hashlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import delete, func, insert, select

from nsai_work import Job
from nsai_work.blobs.access import open_shelf, require_place
from nsai_work.blobs.pieces import PIECE_BYTES
from nsai_work.blobs.place import BlobGone
from nsai_work.blobs.shelf import ContentChanged, Shelf
from nsai_work.blobs.table import TablePlace
from nsai_work.blobs.url import UrlPlace
from nsai_work.client.checkpoints.prune import delete_unused_blobs
from nsai_work.client.file_shipper import submit_with_files
from nsai_work.errors import BlobDamaged, BlobsElsewhere, BlobsUnavailable, InvalidJob
from nsai_work.settings import Settings
from nsai_work.store import Store, Submitted, Tx, open_store
from nsai_work.store.maintenance.unused_blobs import UNTOUCHED_FOR
from nsai_work.store.schema import blob_pieces, blobs, jobs
from tests.integration.store.conftest import ManualClock

CONTENT = os.urandom(2 * PIECE_BYTES + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Bench:
    """A store, the settings of a process, and the folder of its files."""

    store: Store
    settings: Settings
    folder: Path

    @property
    def shelf(self) -> Shelf:
        return open_shelf(self.settings, self.store.blobs)

    def write(self, content: bytes = CONTENT) -> str:
        return self.shelf.write(io.BytesIO(content), hashlib.sha256(content).hexdigest())

    def job(self, name: str = "data.jsonl", content: bytes = CONTENT, **source: object) -> Job:
        path = self.folder / name
        path.write_bytes(content)
        data = {"path": str(path), "sha256": hashlib.sha256(content).hexdigest(), **source}
        payload = {"base_model": "m", "data": data}
        return Job.parse({"kind": "training_step", "backend": "fake", "payload": payload})

    def submit(self, *submitted: Job) -> None:
        submit_with_files(self.store, submitted, self.settings)

    def content_of(self, job: Job) -> bytes:
        (blob,) = self.store.blobs.of_job(job.id)
        read = io.BytesIO()
        self.shelf.read(blob, read)
        return read.getvalue()

    def forget(self, job: Job) -> None:
        self.store.database.run(lambda tx: tx.connection.execute(delete(jobs).where(jobs.c.id == job.id)).rowcount)

    def count(self) -> int:
        return self.store.database.read(
            lambda tx: tx.connection.execute(select(func.count()).select_from(blobs)).scalar_one()
        )

    def pieces(self) -> int:
        """The number of pieces in the place, of whatever kind."""
        rows = self.store.database.read(
            lambda tx: tx.connection.execute(select(func.count()).select_from(blob_pieces)).scalar_one()
        )
        return rows + len([path for path in self.folder.glob("*blobs/*/*") if path.is_file()])

    def replace(self, key: str, pieces: list[bytes]) -> None:
        """Replace the pieces of a blob, as a failing disk might."""
        place = self.shelf.place
        place.delete(key)

        def insert_rows(tx: Tx) -> None:
            for number, piece in enumerate(pieces):
                tx.connection.execute(insert(blob_pieces).values(key=key, number=number, content=piece))

        if isinstance(place, TablePlace):
            self.store.database.run(insert_rows)
        else:
            for number, piece in enumerate(pieces):
                place.write(key, number, piece)

    def prune_now(self) -> int:
        deleted = 0
        while keys := self.store.begin_blob_deletion(timedelta(0)):
            for key in keys:
                self.shelf.delete(key)
            deleted += len(keys)
        return deleted


@pytest.fixture(params=["default", "url"])
def bench(request: pytest.FixtureRequest, url: str, clock: ManualClock, tmp_path: Path) -> Iterator[Bench]:
    """A bench on each database, with its own place and with one behind a URL."""
    if request.param == "url":
        pytest.importorskip("fsspec")
    blobs_url = f"file://{tmp_path}/far-blobs" if request.param == "url" else ""
    store = open_store(url, clock)
    yield Bench(store, Settings(home=tmp_path, database_url=url, blobs_url=blobs_url), tmp_path)
    store.close()


@pytest.fixture
def own_place(url: str, tmp_path: Path) -> Iterator[Bench]:
    """A bench on each database, with its own place, and the time of the database."""
    store = open_store(url)
    yield Bench(store, Settings(home=tmp_path, database_url=url), tmp_path)
    store.close()


def test_a_content_is_written_once(bench: Bench) -> None:
    """Whatever the names of its files, and however many jobs name it."""
    submitted = [bench.job("a.jsonl"), bench.job("b.jsonl")]
    bench.submit(*submitted)
    bench.submit(bench.job("c.jsonl"))

    assert (bench.count(), bench.pieces()) == (1, 3)
    assert [bench.content_of(job) for job in submitted] == [CONTENT] * 2


def test_nothing_of_the_file_is_needed_after_submit(bench: Bench) -> None:
    """It may be deleted, or have another content."""
    job = bench.job()
    bench.submit(job)
    Path(str(job.payload["data"]["path"])).write_text("other")  # type: ignore[index,call-overload]

    assert bench.content_of(job) == CONTENT


def test_a_file_that_is_not_shipped_stays_where_it_is(bench: Bench) -> None:
    """With ship: false."""
    job = bench.job(ship=False)
    bench.submit(job)

    assert bench.store.blobs.of_job(job.id) == []
    assert bench.count() == 0


def test_a_file_that_changes_is_refused(bench: Bench) -> None:
    """Nothing is stored, and nothing is left."""
    job = bench.job()
    (bench.folder / "data.jsonl").write_bytes(CONTENT[:-1])

    with pytest.raises(InvalidJob, match=r"payload\.data\.path: .*changed while it was read"):
        bench.submit(job)

    assert (bench.count(), bench.pieces(), bench.store.list_jobs()) == (0, 0, [])


def test_a_writer_that_is_wrong_spoils_nothing(bench: Bench) -> None:
    """Each writes to a key of its own."""
    with pytest.raises(ContentChanged):
        bench.shelf.write(io.BytesIO(b"other"), SHA256)
    bench.submit(job := bench.job())
    with pytest.raises(ContentChanged):
        bench.shelf.write(io.BytesIO(b"other"), SHA256)

    assert bench.content_of(job) == CONTENT


def test_of_two_writers_of_a_content_one_is_kept(bench: Bench) -> None:
    """The other's pieces are deleted."""
    assert bench.write() == bench.write()
    assert (bench.count(), bench.pieces()) == (1, 3)


def test_an_unused_blob_is_kept_for_a_day(bench: Bench, clock: ManualClock) -> None:
    """Since it was last touched; one that a job names is kept as long as the job."""
    bench.submit(job := bench.job())
    bench.write(b"unused")
    clock.pass_time(UNTOUCHED_FOR.total_seconds() - 1)
    assert (bench.store.count_unused_blobs(), delete_unused_blobs(bench.store, bench.settings)) == (0, 0)
    assert bench.shelf.find(hashlib.sha256(b"unused").hexdigest()) is not None
    clock.pass_time(1)
    assert delete_unused_blobs(bench.store, bench.settings) == 0
    clock.pass_time(UNTOUCHED_FOR.total_seconds())
    assert (bench.store.count_unused_blobs(), delete_unused_blobs(bench.store, bench.settings)) == (1, 1)

    assert bench.content_of(job) == CONTENT
    bench.forget(job)
    assert delete_unused_blobs(bench.store, bench.settings) == 1
    assert (bench.count(), bench.pieces()) == (0, 0)


def test_a_deletion_that_fails_is_finished_by_the_next(bench: Bench, clock: ManualClock) -> None:
    """And the same content can be written meanwhile."""
    bench.write()
    assert len(bench.store.begin_blob_deletion(timedelta(0))) == 1
    bench.submit(job := bench.job())
    assert delete_unused_blobs(bench.store, bench.settings) == 1

    assert bench.content_of(job) == CONTENT
    assert (bench.count(), bench.pieces()) == (1, 3)


def test_a_blob_that_is_pruned_before_the_job_is_stored_is_written_again(bench: Bench) -> None:
    """The transaction finds that it is gone."""
    job, key = bench.job(), bench.write()
    bench.prune_now()
    with pytest.raises(BlobGone):
        bench.store.submit([job], {job.id: [key]})
    assert bench.store.list_jobs() == []

    bench.submit(job)
    assert bench.content_of(job) == CONTENT


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_piece_is_an_error_that_names_the_blob(damage: str, bench: Bench) -> None:
    """Nothing of it is used. The same file, submitted again, is written again, for the first job too."""
    bench.submit(job := bench.job())
    (blob,) = bench.store.blobs.of_job(job.id)
    place = bench.shelf.place
    pieces = [place.read(blob.key, number) for number in range(3)]
    wrong = {
        "missing": pieces[:2],
        "cut": [pieces[0], pieces[1][:-9], pieces[2]],
        "other": [*pieces[:2], pieces[1]],
    }
    bench.replace(blob.key, wrong[damage])

    with pytest.raises(BlobDamaged, match=SHA256):
        bench.content_of(job)
    bench.submit(again := bench.job())
    assert [bench.content_of(one) for one in (again, job)] == [CONTENT] * 2
    assert bench.store.blobs.of_job(job.id) == bench.store.blobs.of_job(again.id) != [blob]


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_place_that_is_away_damages_no_blob(left: str, bench: Bench) -> None:
    """A folder that is not mounted is not there, or empty: all is as before once it is back."""
    bench.submit(job := bench.job())
    places = list(bench.folder.glob("*blobs"))
    if not places:
        pytest.skip("the database is the place")
    away = places[0].rename(bench.folder / "away")
    if left != "nothing":
        places[0].mkdir()

    with pytest.raises(BlobsUnavailable, match="mounted"):
        bench.content_of(job)

    if left != "nothing":
        places[0].rmdir()
    away.rename(places[0])
    assert bench.content_of(job) == CONTENT


def test_another_place_is_refused_by_name(bench: Bench, tmp_path: Path) -> None:
    """At submit and at the start of a worker, both ways."""
    pytest.importorskip("fsspec")
    bench.submit(bench.job())
    other = "" if bench.settings.blobs_url else f"file://{tmp_path}/other"
    settings = bench.settings.model_copy(update={"blobs_url": other})

    for use in (open_shelf, require_place):
        with pytest.raises(BlobsElsewhere, match=r"NSAI_WORK_BLOBS_URL.*(unset it|set it to file:)"):
            use(settings, bench.store.blobs)


def test_a_process_that_is_killed_leaves_what_can_be_pruned(bench: Bench, url: str) -> None:
    """At any piece, and between the last one and the transaction."""
    for stop in range(5):
        if (child := os.fork()) == 0:
            try:
                _write_until(bench, url, stop)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert bench.count() == 5
    bench.submit(job := bench.job())
    assert bench.prune_now() == 4

    assert bench.content_of(job) == CONTENT
    assert (bench.count(), bench.pieces()) == (1, 3)


def _write_until(bench: Bench, url: str, stop: int) -> None:
    """Write pieces and end at the one with a number; 4 ends with a complete blob."""
    shelf = open_shelf(bench.settings, open_store(url, bench.store.database.clock).blobs)
    key = shelf.rows.begin(SHA256)
    for number in range(min(stop, 3)):
        shelf.place.write(key, number, bytes(9))
    if stop == 4:
        shelf.write(io.BytesIO(CONTENT), SHA256)
        shelf.delete(key)


def test_a_submit_whose_blobs_are_pruned_each_time_is_refused(own_place: Bench) -> None:
    """With an error of the family, which says that nothing was stored."""
    bench, store = own_place, own_place.store

    class PrunesBefore:
        """A store whose blobs nobody spares: each is pruned before the job is stored."""

        blobs = store.blobs

        def submit(self, jobs: Sequence[Job], named: Mapping[str, Sequence[str]]) -> list[Submitted]:
            bench.prune_now()
            return store.submit(jobs, named)

    with pytest.raises(BlobsUnavailable, match=r"was pruned 8 times.*submit again"):
        submit_with_files(cast(Store, PrunesBefore()), [bench.job()], bench.settings)
    assert store.list_jobs() == []


@pytest.mark.parametrize("times", [30, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_submits_race_with_the_pruner(times: int, own_place: Bench) -> None:
    """Whatever the order, a job has its content, and in the end nothing is left of what nobody names."""
    bench = own_place
    begun, ended = threading.Semaphore(0), threading.Event()
    errors: list[BaseException] = []
    unlucky: list[str] = []
    content = b"the same"

    def prune() -> None:
        while not ended.is_set():
            if begun.acquire(timeout=0.05):
                bench.prune_now()

    def submit(name: str) -> None:
        for _ in range(times // 2):
            job = bench.job(name, content)
            begun.release()
            while True:
                # without the grace of a day a pruner can win each time: then the error says to submit again
                try:
                    bench.submit(job)
                    break
                except BlobsUnavailable:
                    unlucky.append(job.id)
            if bench.content_of(job) != content:
                raise AssertionError(job.id)
            bench.forget(job)

    def caught(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return run

    submits = [threading.Thread(target=caught(lambda name=name: submit(name))) for name in ("a", "b")]  # type: ignore[misc]
    pruner = threading.Thread(target=caught(prune))
    for thread in (pruner, *submits):
        thread.start()
    for thread in submits:
        thread.join()
    ended.set()
    pruner.join()

    assert errors == []
    assert len(unlucky) <= times // 10
    bench.prune_now()
    assert (bench.count(), bench.pieces()) == (0, 0)


def test_a_file_over_the_limit_of_the_database_is_refused_with_both_ways_out(url: str, tmp_path: Path) -> None:
    """A folder and a URL have no limit."""
    store = open_store(url)
    settings = Settings(home=tmp_path, database_url=url, blobs_max_mib=1)
    bench = Bench(store, settings, tmp_path)
    job = bench.job()
    if store.database.postgres:
        with pytest.raises(InvalidJob, match=r"NSAI_WORK_BLOBS_URL.*payload\.data\.ship to false"):
            bench.submit(job)
        assert store.list_jobs() == []
        bench.submit(bench.job(content=b"small"))
    else:
        bench.submit(job)
    store.close()


@pytest.mark.parametrize("scheme", ["nosuch", "s3nosuch"])
def test_a_url_of_no_known_scheme_is_refused(scheme: str) -> None:
    """The error names the variable."""
    pytest.importorskip("fsspec")
    with pytest.raises(InvalidJob.__base__, match="NSAI_WORK_BLOBS_URL"):  # type: ignore[arg-type]
        UrlPlace(f"{scheme}://bucket/folder")
