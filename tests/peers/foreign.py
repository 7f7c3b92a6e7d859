"""Foreign servers as processes of their own: started on a free port of loopback, stopped with all they started."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provision import HERE, peers_home, provide

from backends.tinkex import ServiceClient
from backends.tinkex.types import ModelInput, SamplingParams
from crucible.errors import RequestTimeout

START_TIMEOUT_S = 180
ENGINE_TIMEOUT_S = 300
STOP_TIMEOUT_S = 15
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Served:
    """A running server, and what a client must know of it."""

    url: str
    key: str
    base_model: str
    log: Path


class NotStarted(Exception):
    """A server ended or stayed silent while it started; the message holds the end of its log."""


def tiny_model(python: Path) -> Path:
    """The folder of the tiny model, made by ``python`` if it is not there."""
    folder = peers_home() / "model"
    if not (folder / "model.safetensors").exists():
        command = [python, HERE / "tiny_model.py", folder]
        subprocess.run(command, check=True, timeout=300, capture_output=True, env=os.environ | OFFLINE)
    return folder


@contextlib.contextmanager
def tuft(folder: Path) -> Iterator[Served]:
    """TuFT with its dummy backends: a strict judge of what is sent, with constant numbers in its answers."""
    python = provide("tuft")
    settings = {
        "supported_models": [
            {
                "model_name": "tiny-qwen3",
                "model_path": str(tiny_model(python)),
                "max_model_len": 512,
                "max_lora_rank": 16,
                "max_loras": 8,
            }
        ],
        "authorized_users": {"tml-dummy": "tester"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "tuft.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    port = free_port()
    command = [str(python), "-m", "tuft", "launch", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--config", str(config), "--checkpoint-dir", str(folder / "checkpoints")]
    environment = {"TUFT_CPU_TEST": "1", "TUFT_HOME": str(folder)}
    with _running(command, environment, folder, port, python) as (url, log):
        yield Served(url, "tml-dummy", "tiny-qwen3", log)


@contextlib.contextmanager
def skyrl(folder: Path) -> Iterator[Served]:
    """SkyRL's API on JAX: real training of the tiny model on the CPU, JSON only."""
    python = provide("skyrl")
    model = tiny_model(python)
    (folder / "checkpoints").mkdir(parents=True)
    port = free_port()
    backend = {"max_lora_adapters": 32, "max_lora_rank": 16, "train_micro_batch_size": 0}
    # the server starts its engine with the flags of the `uv run` that started itself
    command = [str(python.parent / "uv"), "run", "--no-project", "--active", "-m", "skyrl.tinker.api"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--base-model", str(model), "--backend", "jax"]
    command += ["--backend-config", json.dumps(backend), "--checkpoints-base", str(folder / "checkpoints")]
    command += ["--database-url", f"sqlite:///{folder}/tinker.db", "--session-timeout-sec", "-1"]
    environment = {"JAX_PLATFORMS": "cpu", "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}
    with _running(command, environment, folder, port, python) as (url, log):
        served = Served(url, "tml-any", str(model), log)
        _await_engine(served)
        yield served


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], folder: Path, port: int, python: Path
) -> Iterator[tuple[str, Path]]:
    log = folder / "server.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TINKER_"))}
    place = {"VIRTUAL_ENV": str(python.parents[1]), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**inherited, **OFFLINE, **place, **environment},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(process, url, log)
        yield url, log
    finally:
        _stop(process)


def _await_health(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStarted(f"{process.args!r} ended with {process.returncode}:\n{_tail(log)}")
        try:
            with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=2):
                return
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.25)
    raise NotStarted(f"{process.args!r} did not answer within {START_TIMEOUT_S} s:\n{_tail(log)}")


def _await_engine(served: Served) -> None:
    """Wait for a first sample: the API is healthy long before the process that computes has started."""
    with ServiceClient(served.key, served.url) as service:
        sampler = service.create_sampling_client(base_model=served.base_model)
        prompt, params = ModelInput.from_ints([1, 2, 3]), SamplingParams(max_tokens=1)
        try:
            sampler.sample(prompt, 1, params).result(ENGINE_TIMEOUT_S)
        except RequestTimeout:
            raise NotStarted(f"no sample within {ENGINE_TIMEOUT_S} s:\n{_tail(served.log)}") from None


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and every process of the group that it leads."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_TIMEOUT_S)
