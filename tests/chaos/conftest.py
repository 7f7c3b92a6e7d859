"""Rigs for each supported pair of store and broker, with a proxy to the broker."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.rig import PAIRS, Proxy, Rig, new_database, without_notifications

PORTS = {"amqp": 5672, "redis": 6379}


@pytest.fixture(params=PAIRS)
def rig_and_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Rig, Proxy | None]]:
    """A rig, and the proxy to its broker."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            rig, proxy = Rig.embedded(tmp_path), None
        else:
            service = urlsplit(request.getfixturevalue(f"{request.param}_url"))
            proxy = Proxy(service.hostname or "127.0.0.1", service.port or PORTS[request.param])
            stack.callback(proxy.close)
            account = service.netloc.rpartition("@")[0]
            address = f"{account}@127.0.0.1:{proxy.port}" if account else f"127.0.0.1:{proxy.port}"
            database_url = stack.enter_context(new_database(request.getfixturevalue("postgres_url")))
            if request.param == "amqp":
                # with RabbitMQ, only the broker wakes the workers
                database_url = without_notifications(database_url)
            rig = Rig(tmp_path, database_url, service._replace(netloc=address).geturl())
        stack.callback(rig.close)
        yield rig, proxy
