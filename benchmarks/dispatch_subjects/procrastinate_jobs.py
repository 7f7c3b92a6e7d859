"""procrastinate on PostgreSQL."""

import asyncio
import os
from collections.abc import Sequence

import procrastinate

from benchmarks.dispatch_subjects import recorder

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"]))


@app.task(name="body")
async def body(key: str) -> None:
    recorder.body(key)


def work() -> None:
    async def serve() -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await app.run_worker_async(concurrency=100, wait=True)

    asyncio.run(serve())


_loop = asyncio.new_event_loop()
_opened = False


def submit(keys: Sequence[str]) -> None:
    _loop.run_until_complete(_submit(keys))


async def _submit(keys: Sequence[str]) -> None:
    global _opened
    if not _opened:
        await app.open_async()
        _opened = True
    if len(keys) == 1:
        await body.defer_async(key=keys[0])
    else:
        await body.batch_defer_async(*({"key": key} for key in keys))


if __name__ == "__main__":
    recorder.main(work, submit, bulk=True)
