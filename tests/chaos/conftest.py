"""Rigs for each supported pair of store and broker, with a proxy to the broker."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import SLOW_PAIRS, Proxy, Rig, new_database, without_notifications


@pytest.fixture(params=["embedded", *SLOW_PAIRS])
def rig_and_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Rig, Proxy | None]]:
    """A rig, and the proxy to its broker. For PostgreSQL, make test has the many jobs of ``test_many_jobs.py``."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            rig, proxy = Rig.embedded(tmp_path), None
        else:
            proxy = Proxy(request.getfixturevalue(f"{request.param}_url"))
            stack.callback(proxy.close)
            database_url = stack.enter_context(new_database(request.getfixturevalue("postgres_url")))
            if request.param == "amqp":
                # with RabbitMQ, only the broker wakes the workers
                database_url = without_notifications(database_url)
            rig = Rig(tmp_path, database_url, proxy.url)
        stack.callback(rig.close)
        yield rig, proxy
