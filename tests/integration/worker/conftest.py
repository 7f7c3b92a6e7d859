"""Rigs for each supported pair of store and broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig, new_database

PAIRS = [
    "embedded",
    pytest.param("amqp", id="postgres-rabbitmq", marks=[pytest.mark.postgres, pytest.mark.amqp]),
    pytest.param("redis", id="postgres-redis", marks=[pytest.mark.postgres, pytest.mark.redis]),
]


@pytest.fixture(params=PAIRS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store and a broker of this test's own."""
    if request.param == "embedded":
        rig = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", f"spool://localhost{tmp_path}/spool")
        yield rig
        rig.close()
        return
    broker_url = request.getfixturevalue(f"{request.param}_url")
    with new_database(request.getfixturevalue("postgres_url")) as database_url:
        rig = Rig(tmp_path, database_url, broker_url)
        yield rig
        rig.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Rig]:
    """An embedded rig, for tests that do not depend on the services."""
    rig = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", f"spool://localhost{tmp_path}/spool")
    yield rig
    rig.close()
