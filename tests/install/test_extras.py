"""Each extra, installed alone into an empty environment, starts what it is for; a missing one is named.

Run by ``make install-test``: each environment needs a package index and 20 seconds, that of litellm a minute. The
extras with PyTorch (peft, transformers) are too large for this: ``make extras`` installs them together.
"""

import json
import re
import secrets
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.acceptance.conftest import ROOT, TIMEOUT_S, Cli
from tests.conversations import write_conversations

pytestmark = [pytest.mark.install, pytest.mark.timeout(600)]

POSTGRES = "postgresql://nobody@127.0.0.1:1/none"
REDIS = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class InstalledCli(Cli):
    """The command line of an environment with nothing else in it."""

    folder: Path = Path()

    def command(self, *arguments: object) -> list[str]:
        """Build the command line of a call."""
        return [str(self.folder / "bin" / "nsai-work"), *map(str, arguments)]

    def run(
        self, *arguments: object, stdin: str = "", timeout: float = TIMEOUT_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of that environment: a fork of this one would have everything installed."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            input=stdin,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )

    @contextmanager
    def running(self, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
        """Run a command of that environment in the background."""
        process = subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, text=True
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def install(tmp_path: Path, wheel: Path) -> Callable[..., InstalledCli]:
    """Install the wheel with one extra, with the pins of the project, and nothing else."""

    def make(extra: str, pins: str = "constraints.txt", **variables: str) -> InstalledCli:
        folder = tmp_path / "venv"
        venv.create(folder, with_pip=True)
        pip = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "-q",
            "--no-compile",
        ]
        subprocess.run([*pip, "-c", ROOT / pins, f"{wheel}[{extra}]"], check=True, cwd=tmp_path)
        return InstalledCli(tmp_path / "home", variables, folder)

    return make


@pytest.fixture
def schema(postgres_url: str) -> Iterator[str]:
    """The URL of an empty schema of PostgreSQL, in the form that people write."""
    name = f"install_{secrets.token_hex(4)}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    try:
        url = make_url(postgres_url).set(drivername="postgresql")
        url = url.update_query_dict({"options": f"-csearch_path={name}"})
        yield url.render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        admin.dispose()


def assert_runs_a_job(cli: Cli, tmp_path: Path) -> None:
    """A worker starts, and runs a job that another process submits."""
    file = tmp_path / "job.json"
    command = {"command": "echo", "arguments": {"value": 5}}
    file.write_text(json.dumps({"kind": "backend_command", "backend": "fake", "payload": command}))
    with cli.running("worker"):
        done = cli.run("submit", file, "--wait", "--timeout", 60)
    assert (done.returncode, done.stderr) == (0, "")


def assert_names_the_pip_line(cli: Cli, variable: str, url: str, extra: str) -> None:
    """A URL whose extra is missing is refused with the variable and what to install, by every command."""
    without = InstalledCli(cli.home, {variable: url}, cli.folder)  # type: ignore[attr-defined]
    for command in ("worker", "list", "doctor"):
        done = without.run(command)
        assert done.returncode in (1, 2)
        assert f"{variable}: " in done.stderr + done.stdout
        assert f'pip install "nsai-work[{extra}]"' in done.stderr + done.stdout
        assert "bug" not in done.stderr


def test_the_redis_extra_suffices(install: Callable[..., InstalledCli], redis_url: str, tmp_path: Path) -> None:
    """With a Redis broker and SQLite; a PostgreSQL URL names the other extra."""
    prefix = f"install-{secrets.token_hex(4)}"
    cli = install("redis", NSAI_WORK_BROKER_URL=redis_url, NSAI_WORK_QUEUE_PREFIX=prefix)

    assert_runs_a_job(cli, tmp_path)
    assert_names_the_pip_line(cli, "NSAI_WORK_DATABASE_URL", POSTGRES, "postgres")


def test_the_postgres_extra_suffices(install: Callable[..., InstalledCli], schema: str, tmp_path: Path) -> None:
    """With PostgreSQL and the spool; a Redis URL names the other extra."""
    cli = install("postgres", NSAI_WORK_DATABASE_URL=schema)

    assert_runs_a_job(cli, tmp_path)
    assert_names_the_pip_line(cli, "NSAI_WORK_BROKER_URL", REDIS, "redis")


def test_the_metrics_extra_suffices(install: Callable[..., InstalledCli]) -> None:
    """The client of Prometheus is there."""
    cli = install("metrics")
    code = "from nsai_work.extras import missing_extra; import prometheus_client; print(missing_extra('/metrics'))"
    python = cli.folder / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_the_tensorboard_extra_suffices(install: Callable[..., InstalledCli], tmp_path: Path) -> None:
    """A run writes its event files; without another extra, its sink is named and the run goes on."""
    cli = install("tensorboard", "constraints-extras.txt")
    file = tmp_path / "job.json"
    payload = {
        "base_model": "tiny-lm",
        "data": {"path": str(write_conversations(tmp_path / "data.jsonl", 4))},
        "max_steps": 2,
        "sinks": [{"sink": "tensorboard", "settings": {"folder": str(tmp_path / "tb")}}, {"sink": "wandb"}],
    }
    file.write_text(json.dumps({"kind": "training_step", "backend": "fake", "payload": payload}))

    sinks = cli.json("run", file)["result"]["sinks"]

    assert sinks["tensorboard"] == {"step": 2, "segments": 1, "error": None}
    assert sinks["wandb"]["error"] == "not installed here: wandb"
    assert list((tmp_path / "tb").rglob("events.out.tfevents.*"))


def test_the_page_extra_suffices(install: Callable[..., InstalledCli]) -> None:
    """Its templates, scripts and styles are in the wheel."""
    cli = install("page")
    with cli.running("page", "--listen", "0", "--json") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        home = httpx.get(url)
        # there is no store yet, which the page says
        assert home.status_code == 503
        assert "there is no job store" in home.text
        for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', home.text):
            assert httpx.get(url + path).status_code == 200, path


def test_the_openai_extra_suffices(install: Callable[..., InstalledCli]) -> None:
    """The backend loads, and misses only its server; in the same environment litellm names its extra."""
    cli = install("openai", OPENAI_BASE_URL="http://127.0.0.1:1/v1", OPENAI_API_KEY="none")

    (openai,) = cli.json("backends", "openai")
    (litellm,) = cli.json("backends", "litellm")

    assert openai["error"] is None
    assert "not installed" not in openai["health"]["reason"]
    assert "pip install 'nsai-work[litellm]'" in str(litellm)


def test_the_litellm_extra_suffices(install: Callable[..., InstalledCli]) -> None:
    """The backend loads, and misses only the keys of its models."""
    cli = install("litellm", "constraints-extras.txt", NSAI_WORK_LITELLM_DEFAULT_MODEL="openai/gpt-4o-mini")

    (litellm,) = cli.json("backends", "litellm")

    assert litellm["error"] is None
    assert "not installed" not in str(litellm)
