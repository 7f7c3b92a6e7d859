"""The three stages that we promise: SQLite without a broker, and PostgreSQL with RabbitMQ or Redis."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.rig import Proxy, Rig, own_database, without_notices

STAGES = [
    "embedded",
    pytest.param("amqp", id="postgres-rabbitmq", marks=[pytest.mark.postgres, pytest.mark.amqp]),
    pytest.param("redis", id="postgres-redis", marks=[pytest.mark.postgres, pytest.mark.redis]),
]
PORTS = {"amqp": 5672, "redis": 6379}


@pytest.fixture(params=STAGES)
def rig_and_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Rig, Proxy | None]]:
    """A rig, and the way to its broker, which can be cut."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            rig, proxy = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", f"spool://localhost{tmp_path}/spool"), None
        else:
            service = urlsplit(request.getfixturevalue(f"{request.param}_url"))
            proxy = Proxy(service.hostname or "127.0.0.1", service.port or PORTS[request.param])
            stack.callback(proxy.close)
            account = service.netloc.rpartition("@")[0]
            place = f"{account}@127.0.0.1:{proxy.port}" if account else f"127.0.0.1:{proxy.port}"
            database_url = stack.enter_context(own_database(request.getfixturevalue("postgres_url")))
            if request.param == "amqp":
                # on this stage the broker has to do it alone
                database_url = without_notices(database_url)
            rig = Rig(tmp_path, database_url, service._replace(netloc=place).geturl())
        stack.callback(rig.close)
        yield rig, proxy
