"""Celery with its default settings; with ``BENCH_RESULTS`` it stores a row per result."""

import os
from collections.abc import Sequence

from celery import Celery

from benchmarks.dispatch_subjects import recorder

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ.get("BENCH_RESULTS") or None)
app.conf.task_default_queue = os.environ["BENCH_QUEUE"]
app.conf.task_ignore_result = not os.environ.get("BENCH_RESULTS")
app.conf.broker_connection_retry_on_startup = True
body = app.task(name="body")(recorder.body)


def work() -> None:
    app.worker_main(["worker", "--concurrency=2", "--loglevel=ERROR", "--without-gossip", "--without-mingle"])


def submit(keys: Sequence[str]) -> None:
    for key in keys:
        body.delay(key)


if __name__ == "__main__":
    recorder.main(work, submit, bulk=False)
