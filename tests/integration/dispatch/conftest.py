"""A rig on each pair of store and broker that we promise.

The database gives no notices here, so that it is the broker that has to wake the workers.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig, own_database, without_notices

PAIRS = [
    "embedded",
    pytest.param("amqp", id="postgres-rabbitmq", marks=[pytest.mark.postgres, pytest.mark.amqp]),
    pytest.param("redis", id="postgres-redis", marks=[pytest.mark.postgres, pytest.mark.redis]),
]


@pytest.fixture(params=PAIRS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store and a broker that nobody else uses."""
    if request.param == "embedded":
        made = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", f"spool://localhost{tmp_path}/spool")
        yield made
        made.close()
        return
    broker_url = request.getfixturevalue(f"{request.param}_url")
    with own_database(request.getfixturevalue("postgres_url")) as database_url:
        made = Rig(tmp_path, without_notices(database_url), broker_url)
        yield made
        made.close()
