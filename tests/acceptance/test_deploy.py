"""The files of deploy/ and docker-compose.yml: what they run works, and what they name exists."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from backends.tinkex.settings import resolve_endpoint
from nsai_work.client.jobfile import load_jobs
from tests.acceptance.conftest import Cli
from tests.rig import Rig, new_database, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
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


def test_the_example_of_the_compose_file_and_its_data_are_mounted() -> None:
    """The folder of the job file that its command names is a folder of the repository, read only."""
    service = SERVICES["example"]
    [file] = [Path(word) for word in service["command"] if word.endswith(".yaml")]
    mounts = [volume.split(":") for volume in service["volumes"]]
    [source] = [ROOT / source for source, target, mode in mounts if (Path(target), mode) == (file.parent, "ro")]
    [job] = load_jobs(source / file.name)

    data: Any = job.payload["data"]
    assert Path(data["path"]).is_file()
    assert source.resolve() in Path(data["path"]).resolve().parents


def trial(service: str) -> dict[str, str]:
    """The variables of a service whose .env has what the head of the file says for trying it out."""
    lines = re.findall(r"^#   ([A-Z_]+)=(\S+)$", COMPOSE[COMPOSE.index("# To try it") :], re.MULTILINE)
    values = {"POSTGRES_PASSWORD": "a", "RABBITMQ_PASSWORD": "b", **dict(lines)}
    variable = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")

    def filled(text: str) -> str:
        return variable.sub(lambda found: values.get(found[1], found[2] or ""), text)

    return {name: filled(text) for name, text in SERVICES[service].get("environment", {}).items()}


@pytest.mark.parametrize("service", [name for name in SERVICES if "TINKER_BASE_URL" in str(SERVICES[name])])
def test_who_tries_it_out_has_a_key_where_one_is_needed(service: str) -> None:
    """The dev server is on another host for these services, which without a key would leave the example waiting."""
    given = trial(service)
    endpoint = resolve_endpoint(given["TINKER_API_KEY"], given["TINKER_BASE_URL"])
    port = SERVICES["dev-server"]["command"][-1]
    assert endpoint.base_url.rstrip("/") == f"http://dev-server:{port}"


@pytest.mark.parametrize(("service", "page"), [("worker", "alerts.md"), ("page", "page.md")])
def test_a_service_gets_the_variables_of_its_page(service: str, page: str) -> None:
    """Those that docs/howto exports for it, from the .env of whoever follows it."""
    exported = re.findall(r"^\$ export (\w+)=", (ROOT / "docs" / "howto" / page).read_text(), re.MULTILINE)
    environment = SERVICES[service]["environment"]

    assert exported
    assert {name: environment.get(name) for name in exported} == {name: f"${{{name}:-}}" for name in exported}


@pytest.mark.postgres
@pytest.mark.amqp
def test_the_services_of_the_compose_file_train_the_example(tmp_path: Path, rig: Rig) -> None:
    """Each with its own command, on loopback, and with homes of their own; so do the health checks."""
    ports = {port: str(free_port()) for port in ("8077", "9200", "8020")}
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder)
    example = folder / "train.yaml"
    example.write_text(example.read_text().replace("max_steps: 100", "max_steps: 6"))

    def command(service: str) -> list[str]:
        """The command on this machine's addresses."""
        changed = {"0.0.0.0": "127.0.0.1", "/examples/train.yaml": str(example)}
        arguments = [changed.get(argument, argument) for argument in SERVICES[service]["command"]]
        return [_with_ports(argument, ports).replace("0.0.0.0:", "127.0.0.1:") for argument in arguments]

    variables = {
        "NSAI_WORK_DATABASE_URL": rig.database_url,
        "NSAI_WORK_BROKER_URL": rig.broker_url,
        "TINKER_BASE_URL": f"http://127.0.0.1:{ports['8077']}",
    }

    def cli(service: str) -> Cli:
        """The command line with the service's variables."""
        values = {name: variables.get(name, value) for name, value in trial(service).items()}
        return Cli(tmp_path / service, {**values, "NSAI_WORK_QUEUE_PREFIX": rig.prefix})

    def is_healthy(service: str) -> bool:
        """The result of its health check."""
        *_, code = SERVICES[service]["healthcheck"]["test"]
        try:
            exec(_with_ports(code, ports))
        except OSError:
            return False
        return True

    with contextlib.ExitStack() as stack:
        for service in ("dev-server", "worker", "page"):
            stack.enter_context(cli(service).running(*command(service)))
        for service in ("dev-server", "worker", "page"):
            until(lambda service=service: is_healthy(service), f"{service} is healthy")  # type: ignore[misc]
        done = cli("example").run(*command("example"))

        assert done.returncode == 0, done.stdout + done.stderr
        shown = cli("example").json("show", done.stdout.strip())
        page = f"http://127.0.0.1:{ports['8020']}/job.json?id={shown['id']}"
        with urllib.request.urlopen(page, timeout=20) as answer:
            assert json.load(answer)["status"] == "succeeded"

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


def test_the_configuration_of_the_scraper_is_valid(promtool: str, tmp_path: Path) -> None:
    """That of docs/howto/operate.md, beside the rules that it names."""
    page = (ROOT / "docs" / "howto" / "operate.md").read_text()
    [snippet] = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    shutil.copy(RULES_FILE, tmp_path)
    file = tmp_path / "prometheus.yml"
    file.write_text(snippet)

    assert f"SUCCESS: {len(RULES)} rules found" in checked(promtool, "check", "config", file)


@pytest.fixture
def promtool() -> str:
    """Prometheus' own tool."""
    found = os.environ.get("NSAI_TEST_PROMTOOL") or shutil.which("promtool")
    if found is None:
        assert "NSAI_TEST_REQUIRE_SERVICES" not in os.environ or shutil.which("apt-get") is None
        pytest.skip("set NSAI_TEST_PROMTOOL to the path of promtool")
    return found


def checked(*command: str | Path) -> str:
    """Run a command that must succeed. Returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_alert_rules_are_valid(promtool: str) -> None:
    """By Prometheus' own tool."""
    assert f"SUCCESS: {len(RULES)} rules found" in checked(promtool, "check", "rules", RULES_FILE)


HEALTHY = {
    'nsai_store_up{instance="a"}': "1x180",
    'nsai_store_up{instance="page"}': "1x180",
    'nsai_loop_lag_seconds{instance="a"}': "0x180",
    'nsai_workers{instance="a",state="alive"}': "4x180",
    'nsai_jobs{instance="a",state="running",kind="training_step",backend="tinkex"}': "2x180",
    'nsai_jobs_waiting{instance="a",reason="busy"}': "9x180",
    'nsai_job_oldest_age_seconds{instance="a",priority="batch"}': "3x180",
    'nsai_attempts_total{instance="a",outcome="succeeded"}': "0+10x180",
    'nsai_attempts_total{instance="a",outcome="failed"}': "0x180",
    'nsai_training_steps_total{instance="a",kind="new"}': "0+60x180",
    'nsai_takeovers_total{instance="a",resume="warm"}': "0+1x180",
    'nsai_disk_free_ratio{instance="a"}': "0.5x180",
    'nsai_blob_bytes{instance="a"}': "1000000000x180",
    'nsai_alerts_total{instance="a",outcome="sent"}': "0+1x180",
}
"""The metrics of a day without trouble, a sample a minute: a worker's, and what the page serves too."""
TROUBLES = {
    "NsaiNoWorker": {'nsai_loop_lag_seconds{instance="a"}': "_x180"},
    "NsaiWorkersGone": {'nsai_workers{instance="a",state="alive"}': "4x150 1x30"},
    "NsaiStoreDown": {'nsai_store_up{instance="a"}': "0x180"},
    "NsaiLoopLate": {'nsai_loop_lag_seconds{instance="a"}': "5x180"},
    "NsaiJobsWait": {'nsai_job_oldest_age_seconds{instance="a",priority="batch"}': "2000x180"},
    "NsaiNobodyCanRun": {'nsai_jobs_waiting{instance="a",reason="no_backend"}': "1x180"},
    "NsaiOutOfCredit": {'nsai_jobs_waiting{instance="a",reason="credit"}': "1x180"},
    "NsaiServiceAway": {'nsai_attempts_waiting{instance="a",cause="away"}': "2x180"},
    "NsaiJobsFail": {'nsai_attempts_total{instance="a",outcome="failed"}': "0+5x180"},
    "NsaiAttemptsLost": {'nsai_attempts_total{instance="a",outcome="lost"}': "0+1x180"},
    "NsaiColdResume": {'nsai_takeovers_total{instance="a",resume="cold"}': "0+1x180"},
    "NsaiStepsRepeated": {'nsai_training_steps_total{instance="a",kind="superseded"}': "0+20x180"},
    "NsaiRunsRecoverOften": {'nsai_takeovers_total{instance="a",resume="restored"}': "0+1x180"},
    "NsaiDiskFull": {'nsai_disk_free_ratio{instance="a"}': "0.05x180"},
    "NsaiBlobsGrow": {'nsai_blob_bytes{instance="a"}': "200000000000x180"},
    "NsaiAlertsFail": {'nsai_alerts_total{instance="a",outcome="delayed"}': "0+1x180"},
}
"""By alert: the metrics of its trouble, beside healthy ones."""


def test_each_alert_fires_at_its_trouble_alone(promtool: str, tmp_path: Path) -> None:
    """And none on a day without trouble."""
    cases = {"": {}} | TROUBLES
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in {**HEALTHY, **changed}.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "178m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else [],
                }
            ],
        }
        for alert, changed in cases.items()
    ]
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES_FILE)], "evaluation_interval": "1m", "tests": tests}))

    assert {*TROUBLES} == {rule["alert"] for rule in RULES}
    checked(promtool, "test", "rules", file)


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
