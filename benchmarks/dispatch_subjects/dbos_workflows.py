"""DBOS, on PostgreSQL or SQLite."""

import os
import signal
from collections.abc import Sequence

from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.dispatch_subjects import recorder

URL = os.environ["BENCH_DATABASE"]


def work() -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": URL,
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue("bench")
    DBOS.workflow(name="body")(recorder.body)
    DBOS.launch()
    signal.pause()


_clients: list[DBOSClient] = []


def submit(keys: Sequence[str]) -> None:
    if not _clients:
        _clients.append(DBOSClient(system_database_url=URL))
    for key in keys:
        _clients[0].enqueue({"queue_name": "bench", "workflow_name": "body"}, key)


if __name__ == "__main__":
    recorder.main(work, submit, bulk=False)
