"""Latency of claim and list at 1,000, 100,000 and 1,000,000 queued jobs: it must not depend on the number.

    python benchmarks/backlog.py --url postgresql+psycopg://USER@HOST/NAME [--sizes 1000,100000,1000000]

Runs in a schema of its own, which it drops. The last two lines are the ratios of the largest to the smallest size;
the target is below 1.5. With ``--reasons``, the time after which every job of a submitted backlog of 100,000 has
its wait reason, as column and event, instead, on PostgreSQL and on SQLite; the target is 5 s. Then, without a
target, the sweeps over a backlog whose reasons have been removed, which nothing does: how fast the rest would be
recorded.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from own_processes import run_main
from sqlalchemy import String, create_engine, exists, func, make_url, or_, select, text, update

from nsai_work.job import Job
from nsai_work.settings import Settings
from nsai_work.store import AsyncStore, ClaimRequest, JobFilter, Outcome, Store, open_store
from nsai_work.store.schema import events, jobs
from nsai_work.store.wait_reasons.recorder import MIN_WAIT

TENANTS = 20
WARM_UP = 20
SWEEP_S = Settings.model_fields["sweep_interval_s"].default
REASONS_SIZE = 100_000
SUBMITTED = 1_000
REASONS_TARGET_S = 5.0
FILL = """
INSERT INTO nsai_jobs (seq, id, {columns})
SELECT number, gen_random_uuid()::text, {columns}
FROM (
    SELECT nextval('nsai_job_numbers') AS number, {columns}
    FROM nsai_jobs, generate_series(1, :copies) WHERE status = 'queued'
) AS many
"""
SPECS = """
INSERT INTO nsai_job_specs (job_seq, spec)
SELECT jobs.seq, replace(first.spec, first.id, jobs.id)
FROM nsai_jobs AS jobs
JOIN (SELECT id, lane_id, spec FROM nsai_jobs JOIN nsai_job_specs ON job_seq = seq) AS first USING (lane_id)
WHERE jobs.id <> first.id
"""
KEPT = """
SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = 'nsai_jobs' AND column_name NOT IN ('seq', 'id')
"""


@dataclass(frozen=True)
class Latency:
    """The latency of an operation, in milliseconds."""

    p50: float
    p99: float


def main() -> int:
    """Measure and print. Returns 1 if a ratio exceeds the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=os.environ.get("NSAI_TEST_POSTGRES_URL"))
    parser.add_argument("--sizes", default="1000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--target", type=float, default=1.5)
    parser.add_argument("--reasons", action="store_true", help="measure the wait reasons of a backlog instead")
    options = parser.parse_args()
    if not options.url:
        parser.error("give --url or NSAI_TEST_POSTGRES_URL")
    if options.reasons:
        return wait_reasons(options.url)
    sizes = [int(size) for size in options.sizes.split(",")]
    with ExitStack() as opened:
        stores = {size: opened.enter_context(empty_store(options.url)) for size in sizes}
        for size, store in stores.items():
            print(f"filling {size:,}", flush=True)
            fill(store, size)
        claims, lists = asyncio.run(measure(stores, options.rounds))
    print(f"{'queued':>10} {'claim p50':>10} {'p99':>8} {'list p50':>10} {'p99':>8}   (ms, {TENANTS} tenants)")
    for size in sizes:
        claim, listing = claims[size], lists[size]
        print(f"{size:>10,} {claim.p50:>10.2f} {claim.p99:>8.2f} {listing.p50:>10.2f} {listing.p99:>8.2f}")
    ratios = [series[sizes[-1]].p50 / series[sizes[0]].p50 for series in (claims, lists)]
    print(f"claim: largest to smallest {ratios[0]:.2f} (target: below {options.target})")
    print(f"list:  largest to smallest {ratios[1]:.2f} (target: below {options.target})")
    return 0 if max(ratios) < options.target else 1


@contextmanager
def empty_store(url: str) -> Iterator[Store]:
    """An empty store in a new schema, which is dropped afterwards."""
    schema = f"backlog_{secrets.token_hex(4)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    store = open_store(make_url(url).update_query_dict({"options": f"-csearch_path={schema}"}))
    try:
        yield store
    finally:
        store.close()
        with engine.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()


def fill(store: Store, size: int) -> None:
    """Submit one job for each tenant, then multiply them in the database."""
    store.submit([_job(f"tenant-{number}") for number in range(TENANTS)])

    def multiply(tx: object) -> None:
        connection = tx.connection  # type: ignore[attr-defined]
        columns = connection.execute(text(KEPT)).scalar_one()
        connection.execute(text(FILL.format(columns=columns)), {"copies": size // TENANTS - 1})
        connection.execute(text(SPECS))

    store.database.run(multiply)
    with store.database.engine().connect().execution_options(nsai_autocommit=True) as connection:
        connection.execute(text("VACUUM ANALYZE"))


def wait_reasons(url: str) -> int:
    """Measure and print when each job of a backlog says why it waits. Returns 1 if that is after the target."""
    with empty_store(url) as store:
        late = _reasons_known("postgresql", store)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/queue.db")
        try:
            late += _reasons_known("sqlite", store)
        finally:
            store.close()
    return 1 if late else 0


def _reasons_known(name: str, store: Store) -> int:
    begun = time.perf_counter()
    for start in range(0, REASONS_SIZE, SUBMITTED):
        store.submit([_job(f"tenant-{number % TENANTS}") for number in range(start, start + SUBMITTED)])
    submitted_s = time.perf_counter() - begun
    print(
        f"{name}: {REASONS_SIZE:,} jobs submitted in {submitted_s:.1f} s, {_unexplained(store):,} without reason",
        flush=True,
    )
    time.sleep(MIN_WAIT.total_seconds())
    # a job becomes due for it just after a sweep at worst
    known = MIN_WAIT.total_seconds() + SWEEP_S + asyncio.run(_swept(store))
    print(f"{name}: wait reasons of all after {known:.1f} s (target: {REASONS_TARGET_S} s)", flush=True)
    store.database.run(lambda tx: tx.connection.execute(update(jobs).values(wait_reason=None)))
    print(f"{name}: the sweeps over as many without reasons take {asyncio.run(_swept(store)):.1f} s", flush=True)
    return int(known > REASONS_TARGET_S)


def _unexplained(store: Store) -> int:
    """The number of jobs without a reason in the column, or without one in any of their events."""
    told = exists().where(events.c.job_seq == jobs.c.seq, events.c.data.cast(String).contains('"reason":'))
    missing = select(func.count()).select_from(jobs).where(or_(jobs.c.wait_reason.is_(None), ~told))
    return store.database.read(lambda tx: tx.connection.execute(missing).scalar_one())


async def _swept(store: Store) -> float:
    """Sweep at the default interval until no job is without its reason. Returns the seconds since the first."""
    leader, begun = AsyncStore(store.database), time.perf_counter()
    try:
        while True:
            sweep = time.perf_counter()
            await leader.release_due()
            ended = time.perf_counter()
            count = _unexplained(store)
            print(f"a sweep of {ended - sweep:.1f} s leaves {count:,}", flush=True)
            if count == 0:
                return ended - begun
            await asyncio.sleep(max(0.0, sweep + SWEEP_S - time.perf_counter()))
    finally:
        await leader.close()


def _job(tenant: str) -> Job:
    return Job.parse({"kind": "tool_call", "payload": {"command": "noop"}, "backend": "fake", "tenant_id": tenant})


async def measure(stores: dict[int, Store], rounds: int) -> tuple[dict[int, Latency], dict[int, Latency]]:
    """The latency of claims and lists at each size. The sizes alternate, so that other load on the machine affects
    all of them alike."""
    claims: dict[int, list[float]] = {size: [] for size in stores}
    lists: dict[int, list[float]] = {size: [] for size in stores}
    workers = {size: AsyncStore(store.database) for size, store in stores.items()}
    for number in range(rounds + WARM_UP):
        for size, store in stores.items():
            begun = time.perf_counter()
            (claim,) = await workers[size].claim(ClaimRequest("bench", 1, 30.0))
            claimed = time.perf_counter()
            store.list_jobs(JobFilter(), limit=50)
            listed = time.perf_counter()
            await workers[size].finish(claim, Outcome.succeeded())
            if number >= WARM_UP:
                claims[size].append((claimed - begun) * 1000)
                lists[size].append((listed - claimed) * 1000)
    for worker in workers.values():
        await worker.close()
    return _latencies(claims), _latencies(lists)


def _latencies(times: dict[int, list[float]]) -> dict[int, Latency]:
    return {
        size: Latency(statistics.median(series), sorted(series)[int(len(series) * 0.99)])
        for size, series in times.items()
    }


if __name__ == "__main__":
    run_main(main)
