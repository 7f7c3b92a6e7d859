#!/usr/bin/env python3
"""Checks that PostgreSQL, Redis and RabbitMQ answer their protocol's first message, before tests rely on them.

    python3 .ci/services.py [--deadline 60]

Reads the three NSAI_TEST_..._URL variables and uses the standard library only, since no environment exists yet.

It is not enough that a service accepts a connection: RabbitMQ does, and then never answers, once its file handles
are reserved. A quorum queue reserves three, also when it is empty and has no consumer, so with the usual limit of
1024 files about 300 queues silence a broker. Test runs that were killed leave queues, and a restart keeps them.
Therefore, with rabbitmqctl for a broker on this machine, a policy makes idle queues of tests expire: after ten
minutes, or at once if the broker does not answer.
"""

import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

TRY_S = 5.0
COMMAND_S = 90.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = "nsai-work-idle-test-queues"
TEST_QUEUES = r"(\.(realtime|interactive|batch|offline)$|^bench_)"
IDLE_MS = 600_000
FACTS = "{file_handle_cache:info(), {queues, length(rabbit_amqqueue:list())}, {alarms, rabbit_alarm:get_alarms()}}."


class NoAnswer(Exception):
    """A service did not answer as its protocol demands."""


@dataclass(frozen=True)
class Service:
    """A service: the variable with its URL, its first message, and a check of the first bytes of its answer."""

    name: str
    variable: str
    port: int
    greeting: Callable[[str], bytes]
    accepts: Callable[[bytes], bool]


def postgres_startup(url: str) -> bytes:
    """Return the startup message for the user and database of a URL."""
    parts = urlsplit(url)
    user = parts.username or "postgres"
    fields = ["user", user, "database", parts.path.lstrip("/") or user]
    body = struct.pack("!i", 196608) + b"".join(text.encode() + b"\0" for text in fields) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


SERVICES = [
    Service("PostgreSQL", "NSAI_TEST_POSTGRES_URL", 5432, postgres_startup, lambda answer: answer[:1] == b"R"),
    # an answer that demands a password is one too
    Service(
        "Redis", "NSAI_TEST_REDIS_URL", 6379, lambda _: b"PING\r\n", lambda got: got[:5] in (b"+PONG", b"-NOAU")
    ),
    # a method frame on channel 0: connection.start
    Service(
        "RabbitMQ", "NSAI_TEST_AMQP_URL", 5672, lambda _: b"AMQP\0\0\x09\x01", lambda got: got[:3] == b"\1\0\0"
    ),
]


def shake_hands(service: Service, url: str, timeout_s: float = TRY_S) -> None:
    """Send a service its first message, and check the answer.

    Raises:
        NoAnswer: it refuses the connection, does not answer in time, or answers something else.
    """
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or service.port)
    try:
        with socket.create_connection(address, timeout_s) as connection:
            connection.sendall(service.greeting(url))
            answer = connection.recv(4096)
    except TimeoutError:
        raise NoAnswer(f"no answer in {timeout_s:g} s") from None
    except OSError as error:
        raise NoAnswer(str(error)) from None
    if not service.accepts(answer):
        raise NoAnswer(f"unexpected answer {answer[:200]!r}" if answer else "it closed the connection")


def wait_for(service: Service, url: str, deadline_s: float) -> str | None:
    """Repeat the handshake until it succeeds. Returns the last failure if it does not within ``deadline_s``."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            shake_hands(service, url)
        except NoAnswer as failure:
            if time.monotonic() > deadline:
                return str(failure)
            time.sleep(0.5)
        else:
            return None


def rabbitmqctl(*arguments: str) -> str:
    """Run rabbitmqctl, and return what it printed. Never raises: it is for repairs and diagnoses."""
    try:
        done = subprocess.run(
            ["rabbitmqctl", "--quiet", *arguments], capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"rabbitmqctl {arguments[0]}: {error}"
    return (done.stdout + done.stderr).strip()


def expire_idle_queues(idle_ms: int) -> None:
    """Let RabbitMQ delete queues of test runs that had no consumer for a while."""
    expiry = json.dumps({"expires": idle_ms})
    print(rabbitmqctl("set_policy", POLICY, TEST_QUEUES, expiry, "--apply-to", "queues"), end="", flush=True)


def repair_rabbitmq(service: Service, url: str, failure: str) -> str | None:
    """Try what makes RabbitMQ answer again, the mildest first. Returns the failure that remains."""
    print(f"RabbitMQ: {failure}; {rabbitmqctl('eval', FACTS)}", flush=True)
    print("RabbitMQ: deleting idle queues of test runs", flush=True)
    expire_idle_queues(1000)
    time.sleep(5)  # it answers after the first few, before it has deleted all
    remaining = wait_for(service, url, 15)
    if remaining:
        print(f"RabbitMQ: {remaining}; restarting it", flush=True)
        for command in ("stop_app", "start_app"):
            print(rabbitmqctl(command), end="", flush=True)
        remaining = wait_for(service, url, 60)
    if remaining:
        print(f"RabbitMQ: {rabbitmqctl('eval', FACTS)}\n{rabbitmqctl('list_queues', 'name')[:2000]}", flush=True)
    return remaining


def check(service: Service, url: str, deadline_s: float) -> bool:
    """Wait for a service, and report whether it answers."""
    failure = wait_for(service, url, deadline_s)
    ours = service.name == "RabbitMQ" and urlsplit(url).hostname in LOOPBACK and shutil.which("rabbitmqctl")
    if ours:
        failure = failure and repair_rabbitmq(service, url, failure)
        expire_idle_queues(IDLE_MS)
    address = urlsplit(url).netloc.rpartition("@")[2]
    print(f"{service.name} at {address}: {failure or 'answers'}", flush=True)
    return failure is None


def main() -> int:
    """Check each service that has a URL. Returns 1 if one does not answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deadline", type=float, default=60, help="seconds that a service has to start answering")
    deadline_s = parser.parse_args().deadline
    given = [(service, url) for service in SERVICES if (url := os.environ.get(service.variable))]
    answers = [check(service, url, deadline_s) for service, url in given]
    return 0 if all(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
