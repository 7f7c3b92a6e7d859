"""Fixtures for every test: an isolated home, no way out but loopback, and services by URL."""

import gc
import os
import signal
import socket
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.long_forms import mark_long_forms
from tests.migrated_tables import replay_migrations
from tests.open_connections import close_left_open, record_connections

settings.register_profile(
    "nsai", deadline=None, max_examples=35, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("nsai")


WAITING = (
    "tests/chaos/",
    "tests/verify/",
    "tests/integration/in_process/",
    "tests/page/",
    "tests/acceptance/",
    "tests/integration/worker/",
    "tests/integration/dispatch/",
)
"""The folders whose tests wait for processes, those of long tests first."""
WAITING_PART = 0.75
"""They are spread over this part of the run, so that none of them is left alone at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the long forms, before they are deselected, and mix the files whose tests wait with those whose tests
    compute, so that the processors are always busy.

    Files of few quick tests are last: then the processes of a run end together.
    """
    whole = config.args == config.getini("testpaths") and not config.getoption("ignore")
    mark_long_forms(items, whole=whole)
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting = sorted(
        (file for file in files if file.startswith(WAITING)),
        key=lambda file: next(place for place, folder in enumerate(WAITING) if file.startswith(folder)),
    )
    computing = sorted(
        files.keys() - set(waiting), key=lambda file: (file.startswith("tests/unit/"), -len(files[file]), file)
    )
    places = {file: WAITING_PART * number / len(waiting) for number, file in enumerate(waiting)}
    places |= {file: number / len(computing) for number, file in enumerate(computing)}
    items[:] = [item for file in sorted(places, key=places.__getitem__) for item in files[file]]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt modules and tests from garbage collection, since they live to the end, and collect the rest seldom."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    return result


SERVICES = {
    "postgres": "NSAI_TEST_POSTGRES_URL",
    "redis": "NSAI_TEST_REDIS_URL",
    "amqp": "NSAI_TEST_AMQP_URL",
}


def service_url(service: str) -> str:
    """The URL of a service, or a skip that says what is missing (a failure where services are required)."""
    variable = SERVICES[service]
    url = os.environ.get(variable)
    if url:
        return url
    message = f"set {variable} to run the tests that need {service}"
    if os.environ.get("NSAI_TEST_REQUIRE_SERVICES"):
        pytest.fail(f"services are required here: {message}")
    pytest.skip(message)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """SQLAlchemy URL of a PostgreSQL database in which a test may make schemas."""
    return service_url("postgres")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """URL of a Redis database."""
    return service_url("redis")


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """URL of a RabbitMQ virtual host."""
    return service_url("amqp")


_homes = count()


@pytest.fixture(autouse=True)
def _isolated_environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in list(os.environ):
        if variable.startswith(("NSAI_WORK_", "TINKER_", "OPENAI_")):
            monkeypatch.delenv(variable)
    if "tmp_path" in request.fixturenames:
        home = request.getfixturevalue("tmp_path") / "home"
    else:  # most tests: making a folder takes as long as some of them
        home = tmp_path_factory.getbasetemp() / f"home-{next(_homes)}"
    monkeypatch.setenv("NSAI_WORK_HOME", str(home))


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and all that a test starts inherits it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    real_connect = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if not (host.startswith("127.") or host in ("::1", "localhost")):
                raise PermissionError(f"tests may only connect to loopback, not to {host}")
        return real_connect(self, address)

    socket.socket.connect = connect  # type: ignore[method-assign]
    yield
    socket.socket.connect = real_connect  # type: ignore[method-assign]


@pytest.fixture(autouse=True, scope="session")
def _migrations_are_replayed() -> None:
    replay_migrations()


@pytest.fixture(autouse=True, scope="session")
def _connections_are_recorded() -> None:
    record_connections()


@pytest.fixture(autouse=True, scope="module")
def _no_connection_outlives_its_module(_connections_are_recorded: None) -> Iterator[None]:
    yield
    if left := close_left_open():
        pytest.fail(f"PostgreSQL connections were left open; opened in {', '.join(left)}")
