"""``nsai-work serve``, as a process that a client of the API talks to."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import TIMEOUT_S, Cli

Job = dict[str, Any]
Write = Callable[[Any], Path]
ASKED = [{"role": "user", "content": "Hi"}]
KEY = "sesame-42-open"


def test_it_serves_the_model_of_a_job_until_it_is_stopped(
    cli: Cli, job: Job, job_file: Write, tmp_path: Path
) -> None:
    """By the end of the job's id, with the key of a file; SIGTERM ends it with code 0."""
    job_id = cli.json("run", job_file(job))["id"]
    (tmp_path / "key").write_text(f"{KEY}\n")
    arguments = ("--model", job_id[-8:], "--checkpoint", "4", "--port", 0, "--key-file", tmp_path / "key", "--json")

    with cli.running("serve", *arguments) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with openai.OpenAI(base_url=ready["url"], api_key=KEY, max_retries=0) as client:
            answer = client.chat.completions.create(model=job_id[-8:], messages=ASKED, temperature=0, max_tokens=4)
        with (
            openai.OpenAI(base_url=ready["url"], api_key="none", max_retries=0) as refused,
            pytest.raises(openai.AuthenticationError),
        ):
            refused.models.list()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(TIMEOUT_S) == 0, rest
    [row] = [row for row in cli.json("checkpoints", job_id) if row["step"] == 4]
    whole = cli.json(
        "complete", "--model", row["path"], "--backend", "fake", "--temperature", 0, "--max-tokens", 4, "Hi"
    )
    assert answer.choices[0].message.content == whole["choices"][0]["message"]["content"]
    assert ready["models"] == [job_id[-8:], row["path"]]
    assert KEY not in json.dumps(ready) + rest


def test_without_a_model_it_serves_all_of_a_backend(cli: Cli) -> None:
    """With the key of the environment, and a line for people on how to use it."""
    cli.variables["NSAI_WORK_SERVE_KEY"] = KEY
    with cli.running("serve", "--backend", "fake", "--port", 0) as process:
        assert process.stdout is not None
        serving, export = process.stdout.readline(), process.stdout.readline()
        url = serving.split()[-1]
        with openai.OpenAI(base_url=url, api_key=KEY) as client:
            names = [model.id for model in client.models.list()]
    assert serving.startswith("serving all models of fake at http://127.0.0.1:")
    assert export.startswith(f"export OPENAI_BASE_URL={url} ")
    assert KEY not in serving + export
    assert "tiny-lm" in names


def test_what_it_refuses(cli: Cli, tmp_path: Path) -> None:
    """By the option, before it listens."""
    (tmp_path / "two").write_text("a\nb")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        cases: dict[tuple[object, ...], str] = {
            ("--port", port): f"--port: {port} is not allowed; cannot listen on it",
            ("--key-file", tmp_path / "none"): "--key-file",
            ("--key-file", tmp_path / "two"): "one line of printable ASCII",
            ("--checkpoint", "best"): "--model names none",
            ("--backend", "fakes"): "no backend is called 'fakes'",
            ("--model", "nobody"): "--model: 'nobody' is not allowed; allowed are tiny-lm",
            ("--model", "fake://a/weights/b"): "--model: 'fake://a/weights/b' is not allowed",
        }
        for arguments, reason in cases.items():
            done = cli.run("serve", "--backend", "fake", *arguments)
            assert (done.returncode, done.stdout) == (2, ""), arguments
            assert reason in done.stderr
    cli.variables["NSAI_WORK_SERVE_KEY"] = "schlüssel"
    assert "NSAI_WORK_SERVE_KEY" in cli.run("serve", "--backend", "fake", "--port", 0).stderr
