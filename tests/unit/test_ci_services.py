"""The check of the services before a CI run."""

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_services", Path(__file__).parents[2] / ".ci" / "services.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


services = _load()
ANSWERS = {
    "PostgreSQL": b"R\0\0\0\x08\0\0\0\0",
    "Redis": b"+PONG\r\n",
    "RabbitMQ": b"\1\0\0\0\0\1\xf6\0\x0a\0\x0a\0\x09",
}
REFUSALS = {
    "PostgreSQL": b"E\0\0\0\x20SFATAL\0C53300\0",
    "Redis": b"-LOADING Redis is loading the dataset in memory\r\n",
    "RabbitMQ": b"AMQP\0\0\x09\x01",
}


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Run a server that accepts one connection and answers once, or not at all. Yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            if answer is None:
                asked.wait(30)
            else:
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        asked.set()
        thread.join()
        listener.close()


def _url(address: str) -> str:
    return f"scheme://somebody@{address}/test"


@pytest.mark.parametrize("service", services.SERVICES, ids=lambda service: service.name)
def test_a_service_must_answer_as_its_protocol_demands(service: object) -> None:
    """Another answer, none at all and a closed connection are failures that say which."""
    name = service.name  # type: ignore[attr-defined]
    with server(ANSWERS[name]) as address:
        services.shake_hands(service, _url(address))
    for wrong, message in (
        (REFUSALS[name], "unexpected answer"),
        (b"", "closed the connection"),
        (None, "no answer"),
    ):
        with server(wrong) as address, pytest.raises(services.NoAnswer, match=message):
            services.shake_hands(service, _url(address), timeout_s=0.1 if wrong is None else 30)
    with pytest.raises(services.NoAnswer, match="refused"):
        services.shake_hands(service, _url(address))


def _answers(service: str, url: str) -> None:
    services.shake_hands(next(found for found in services.SERVICES if found.name == service), url, 30)


@pytest.mark.postgres
def test_postgresql_answers(postgres_url: str) -> None:
    """The first message is one that the real server answers."""
    _answers("PostgreSQL", postgres_url)


@pytest.mark.redis
def test_redis_answers(redis_url: str) -> None:
    """The first message is one that the real server answers."""
    _answers("Redis", redis_url)


@pytest.mark.amqp
def test_rabbitmq_answers(amqp_url: str) -> None:
    """The first message is one that the real server answers."""
    _answers("RabbitMQ", amqp_url)
