"""The files of deploy/ and docker-compose.yml: what they run works, and what they name exists."""

import json
import os
import re
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from tests.acceptance.conftest import Cli
from tests.rig import Rig, new_database, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
RULES_FILE = DEPLOY / "prometheus" / "alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(RULES_FILE.read_text())["groups"][0]["rules"]


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """An empty database."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture
def rig(tmp_path: Path, database_url: str, amqp_url: str) -> Iterator[Rig]:
    """PostgreSQL and RabbitMQ, whose queues are deleted afterwards."""
    made = Rig(tmp_path, database_url, amqp_url)
    yield made
    made.close()


@pytest.mark.postgres
@pytest.mark.amqp
def test_the_services_of_the_compose_file_train_the_example(tmp_path: Path, rig: Rig) -> None:
    """Each with its own command, on loopback, and with homes of their own; so do the health checks."""
    ports = {"8077": str(free_port()), "9200": str(free_port())}
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder)
    example = folder / "train.yaml"
    example.write_text(example.read_text().replace("max_steps: 100", "max_steps: 6"))

    def command(service: str) -> list[str]:
        """The command on this machine's addresses."""
        changed = {"0.0.0.0": "127.0.0.1", "/examples/train.yaml": str(example)}
        arguments = [changed.get(argument, argument) for argument in SERVICES[service]["command"]]
        return [_with_ports(argument, ports) for argument in arguments]

    variables = {
        "NSAI_WORK_DATABASE_URL": rig.database_url,
        "NSAI_WORK_BROKER_URL": rig.broker_url,
        "TINKER_BASE_URL": f"http://127.0.0.1:{ports['8077']}",
        "TINKER_API_KEY": "tml-dev",
    }

    def cli(service: str) -> Cli:
        """The command line with the service's variables."""
        named = SERVICES[service].get("environment", {})
        values = {name: value for name, value in variables.items() if name in named}
        return Cli(tmp_path / service, {**values, "NSAI_WORK_QUEUE_PREFIX": rig.prefix})

    def is_healthy(service: str) -> bool:
        """The result of its health check."""
        *_, code = SERVICES[service]["healthcheck"]["test"]
        try:
            exec(_with_ports(code, ports))
        except OSError:
            return False
        return True

    with cli("dev-server").running(*command("dev-server")), cli("worker").running(*command("worker")):
        for service in ("dev-server", "worker"):
            until(lambda service=service: is_healthy(service), f"{service} is healthy")  # type: ignore[misc]
        done = cli("example").run(*command("example"))

        assert done.returncode == 0, done.stdout + done.stderr
        shown = cli("example").json("show", done.stdout.strip())

    assert (shown["status"], shown["result"]["steps"]) == ("succeeded", 6)


def _with_ports(text: str, ports: dict[str, str]) -> str:
    for written, free in ports.items():
        text = text.replace(written, free)
    return text


@pytest.mark.postgres
def test_the_query_of_the_scaler_counts_what_is_to_do(tmp_path: Path, database_url: str) -> None:
    """On the tables as they are."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "scaling.yaml").read_text())
    [scaler] = [document for document in documents if document["kind"] == "ScaledObject"]
    [trigger] = scaler["spec"]["triggers"]
    job = tmp_path / "job.yaml"
    job.write_text("{kind: tool_call, backend: fake, payload: {command: noop}}")
    cli = Cli(
        tmp_path, {"NSAI_WORK_DATABASE_URL": database_url, "NSAI_WORK_BROKER_URL": f"spool://localhost{tmp_path}/s"}
    )
    cli.json("submit", job)

    engine = create_engine(make_url(database_url), poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.execute(text(trigger["metadata"]["query"])).scalar() == 1


def test_what_the_image_copies_and_installs_exists() -> None:
    """The packages of the wheel, and extras by their names; the files that the build needs are not ignored."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", lines, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    [extras] = re.findall(r'^ARG EXTRAS="(.+)"$', lines, re.MULTILINE)

    assert {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]} < {*names}
    assert all((ROOT / name).exists() for name in names)
    assert {f"!{name}" for name in names} <= {*(ROOT / ".dockerignore").read_text().splitlines()}
    assert {*extras.split(",")} <= {*project["project"]["optional-dependencies"]}


def metrics(expression: str) -> set[str]:
    """The metrics that an expression names, by the names of their families."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bnsai_\w+", expression)}


def test_rules_and_dashboard_name_metrics_that_exist() -> None:
    """And the dashboard shows all of them."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known = set(re.findall(r"^\| `(nsai_\w+)` \|", page, re.MULTILINE))
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    shown = {
        name for panel in dashboard["panels"] for target in panel["targets"] for name in metrics(target["expr"])
    }

    assert {name for rule in RULES for name in metrics(rule["expr"])} <= known
    assert shown == known


def test_every_alert_has_an_answer() -> None:
    """docs/howto/operate.md says what to do."""
    page = (ROOT / "docs" / "howto" / "operate.md").read_text()
    answered = re.findall(r"^\| `(Nsai\w+)` \|", page, re.MULTILINE)

    assert answered == [rule["alert"] for rule in RULES]


def test_the_alert_rules_are_valid() -> None:
    """By Prometheus' own tool."""
    promtool = os.environ.get("NSAI_TEST_PROMTOOL") or shutil.which("promtool")
    if promtool is None:
        assert "NSAI_TEST_REQUIRE_SERVICES" not in os.environ or shutil.which("apt-get") is None
        pytest.skip("set NSAI_TEST_PROMTOOL to the path of promtool")
    done = subprocess.run(
        [promtool, "check", "rules", RULES_FILE],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(RULES)} rules found" in done.stdout


def test_the_unit_of_the_service_manager_is_valid(tmp_path: Path) -> None:
    """By systemd's own tool, with a program that exists in the place of ours."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "systemd" / "nsai-work-worker@.service").read_text()
    [start] = re.findall(r"^ExecStart=\S+/nsai-work (.+)$", unit, re.MULTILINE)
    checked = tmp_path / "nsai-work-worker@.service"
    checked.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "nsai-work-worker@1.service")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    about_ours = [line for line in done.stderr.splitlines() if "nsai-work" in line]

    assert start == "worker --http 127.0.0.1:920%i"
    assert about_ours == []
