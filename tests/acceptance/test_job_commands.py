"""The commands for jobs, from submit to result, in real processes."""

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.conftest import ROOT, TIMEOUT_S, Cli, small_training, until
from tests.conversations import write_conversations

Job = dict[str, Any]
Write = Callable[[Any], Path]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the shipped examples, so that nothing is written to the source tree."""
    return Path(shutil.copytree(ROOT / "examples", tmp_path / "examples")) / "train.yaml"


def shortened(example: Path, steps: int = 12) -> str:
    """Let the example train for fewer steps; the tutorial runs all of them. Returns its text."""
    text, changed = re.subn(r"max_steps: \d+", f"max_steps: {steps}", example.read_text())
    assert changed == 1
    example.write_text(text)
    return text


def test_the_example_runs_beside_a_dev_server(cli: Cli, example: Path) -> None:
    """``nsai-work dev-server`` and ``nsai-work run examples/train.yaml`` need no key, address or other setting."""
    payload = yaml.safe_load(shortened(example, 40))["payload"]

    with cli.dev_server():
        job = cli.json("run", example)
        shown = cli.run("show", job["id"])
        answer = cli.run(
            "complete", "--model", job["result"]["model"], "--max-tokens", 20, "--temperature", 0, "Hi"
        )

    assert job["status"] == "succeeded"
    assert job["backend"] == "tinkex"
    assert job["result"]["loss"] < job["result"]["first_loss"] / 2
    steps = cli.json("steps", job["id"])
    assert [step["step"] for step in steps] == list(range(1, payload["max_steps"] + 1))
    assert job["result"]["model"] in shown.stdout
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def test_submit_and_worker_in_separate_processes(cli: Cli, example: Path) -> None:
    """The default database and broker carry a job from one process to another."""
    shortened(example)
    with cli.dev_server(), cli.running("worker"):
        job_id = cli.json("submit", example)["id"]
        watched = cli.run("watch", job_id, "--timeout", 100)

    assert watched.returncode == 0, watched.stderr
    assert "step 1/" in watched.stdout
    assert "succeeded" in watched.stdout
    assert "\x1b" not in watched.stdout


def test_swapping_the_backend_changes_nothing_else(cli: Cli, example: Path) -> None:
    """The same file with ``backend: fake`` runs without a server."""
    text = shortened(example)
    assert "backend: tinkex" in text
    example.write_text(text.replace("backend: tinkex", "backend: fake"))

    job = cli.json("run", example)

    assert (job["status"], job["backend"]) == ("succeeded", "fake")
    assert job["result"]["loss"] < job["result"]["first_loss"]


def test_run_prints_the_result_and_how_to_use_it(cli: Cli, job: Job, job_file: Write) -> None:
    """The result and a command to use the new model go to stdout, progress to stderr."""
    done = cli.run("run", job_file(job))

    assert done.returncode == 0, done.stderr
    assert "step 1/6" in done.stderr
    assert "checkpoint at step 2" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    last = done.stdout.splitlines()[-1]
    job_id = cli.json("list")[0]["id"]
    assert last.removeprefix("try it").strip().startswith(f"nsai-work complete --model {job_id[-8:]} ")
    assert cli.run("watch", job_id).stdout.splitlines()[-1] == f"try it: {last.removeprefix('try it').strip()}"
    command = shlex.split(last)[shlex.split(last).index("complete") :]
    whole = cli.json(*command)
    assert whole["model"] == cli.json("show", job_id)["result"]["model"]
    for choice, step in {"latest": 6, "4": 4, "best": None}.items():
        chosen = cli.json("complete", "--model", job_id, "--checkpoint", choice, "Hi")["model"]
        rows = {row["step"]: row for row in cli.json("checkpoints", job_id) if row["kept"]}
        row = rows[step] if step else min(rows.values(), key=lambda row: row["metric"])
        assert chosen == (row["sampler_path"] or row["path"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, str]:
    """A home with a job that has trained, and the id of the job."""
    folder = tmp_path_factory.mktemp("trained")
    file = folder / "job.json"
    file.write_text(json.dumps(small_training(write_conversations(folder / "conversations.jsonl", 8))))
    cli = Cli(folder / "home")
    return cli, str(cli.json("run", file)["id"])


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--model", "JOB", "--checkpoint", "3"), 3, "has no checkpoint '3'; it has checkpoints of the steps 4, 6"),
        (("--model", "JOB", "--checkpoint", "newest"), 2, "allowed are final, latest, best"),
        (("--model", "JOB", "--backend", "tinkex"), 2, "has its model at 'fake'"),
        (("--backend", "fake", "--model", "tiny-lm", "--checkpoint", "best"), 2, "--model names none"),
        (("--backend", "fake", "--model", "deadbeef"), 2, "options.model: 'deadbeef'"),
    ],
)
def test_a_model_that_is_not_there_is_refused(
    trained: tuple[Cli, str], arguments: tuple[str, ...], code: int, reason: str
) -> None:
    """The error names the option, and lists what there is."""
    cli, job_id = trained

    done = cli.run("complete", *(job_id if word == "JOB" else word for word in arguments), "Hi")

    assert (done.returncode, done.stdout) == (code, "")
    assert reason in done.stderr


def test_a_job_without_a_model_is_refused(cli: Cli, job: Job, job_file: Write) -> None:
    """One that waits has no checkpoint yet; one of another kind never has one."""
    waiting = cli.json("submit", job_file(job))["id"]
    payload = {"prompt": {"messages": [{"role": "user", "content": "Hi"}], "options": {"model": "tiny-lm"}}}
    asking = cli.json("submit", job_file({"kind": "inference", "backend": "fake", "payload": payload}))["id"]

    assert (
        "(queued) has no checkpoint 'final'; it has no checkpoints yet"
        in cli.run("complete", "--model", waiting, "Hi").stderr
    )
    assert "only training jobs make a model" in cli.run("complete", "--model", asking, "Hi").stderr


def test_json_output(cli: Cli, job: Job, job_file: Write) -> None:
    """show, steps, evaluations, checkpoints, list and watch print JSON of a fixed form."""
    payload = {**job["payload"], "eval": {"every": 4, "data": job["payload"]["data"]}}
    job = {**job, "payload": payload}
    job_id = cli.json("submit", job_file(job))["id"]
    assert cli.json("run", job_file(job))["status"] == "succeeded"
    listed = cli.json("list")
    done = next(item for item in listed if item["status"] == "succeeded")

    steps = cli.json("steps", done["id"])
    evaluations = cli.json("evaluations", done["id"])
    checkpoints = cli.json("checkpoints", done["id"])
    events = [json.loads(line) for line in cli.run("watch", done["id"], "--json").stdout.splitlines()]

    assert [item["id"] for item in listed] == [done["id"], job_id]
    shown = cli.json("show", done["id"])
    assert shown["result"] == done["result"]
    for used in (shown["goodput"], done["result"]["goodput"]):
        spent = [value for name, value in used.items() if name not in ("wall_s", "ratio")]
        assert sum(spent) == pytest.approx(used["wall_s"])
    assert shown["goodput"]["productive_s"] == done["result"]["goodput"]["productive_s"] > 0
    assert [(step["step"], step["epoch"]) for step in steps] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert all(isinstance(step["loss"], float) for step in steps)
    assert [(item["step"], item["rows"]) for item in evaluations] == [(0, 8), (4, 8), (6, 8)]
    assert [step["evaluation"] for step in steps if "evaluation" in step] == evaluations[1:]
    for command in ("steps", "evaluations"):
        shown = cli.run(command, done["id"]).stdout
        assert all(f"{item['metrics']['eval.loss']:.4f}"[:5] in shown for item in evaluations)
    assert {item["step"] for item in checkpoints if item["kept"]} >= {4, 6}
    assert all({"path", "step", "metric", "kept"} <= set(item) for item in checkpoints)
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert events[-1]["name"] == "job.succeeded"


def test_a_worker_says_in_json_that_it_is_ready(cli: Cli) -> None:
    """One line on stdout; the events of its log are JSON too."""
    arguments = cli.command("worker", "--json", "--queue", "batch", "--concurrency", 3)
    with subprocess.Popen(
        arguments, env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        ready = json.loads(worker.stdout.readline())
        worker.send_signal(signal.SIGTERM)
        rest, log = worker.communicate(timeout=TIMEOUT_S)

    assert (ready["pid"], ready["queues"], ready["concurrency"]) == (worker.pid, ["batch"], 3)
    assert (worker.returncode, rest) == (0, "")
    events = [json.loads(line) for line in log.splitlines()]
    (started,) = [event for event in events if event["event"] == "worker.started"]
    assert (started["worker_id"], started["concurrency"]) == (ready["worker_id"], 3)


def test_a_promoted_checkpoint_is_marked(cli: Cli, job: Job, job_file: Write) -> None:
    """A checkpoint can be promoted after the run; a checkpoint that does not exist is not found."""
    done = cli.json("run", job_file(job))
    first = next(item for item in cli.json("checkpoints", done["id"]) if item["kept"])

    kept = cli.json("promote", done["id"], first["name"])

    assert (kept["name"], kept["promoted"]) == (first["name"], True)
    assert cli.run("promote", done["id"], "no-such-checkpoint").returncode == 3


def test_promote_removes_the_expiry_at_the_service(cli: Cli, job: Job, job_file: Write) -> None:
    """The expiry is removed at the service; if that is unavailable, nothing is promoted, with exit code 1."""
    job["backend"] = "tinkex"
    job["payload"]["checkpoint_policy"] |= {"keep_last": 3, "ttl": 3600}
    with cli.dev_server() as url:
        known = {"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-dev"}
        done = Cli(cli.home, known).json("run", job_file(job))
        first, second, _ = (item for item in cli.json("checkpoints", done["id"]) if item["kept"])
        kept = Cli(cli.home, known).json("promote", done["id"], first["name"])
    hasty = Cli(cli.home, {**known, "NSAI_WORK_SUBMIT_TIMEOUT_S": "0.5"})
    away = hasty.run("promote", done["id"], second["name"], "--json")

    assert first["expires_at"] is not None
    assert (kept["name"], kept["promoted"], kept["expires_at"]) == (first["name"], True, None)
    assert (away.returncode, away.stdout) == (1, "")
    error = json.loads(away.stderr)["error"]
    assert error["code"] == "backend_unavailable"
    assert "Nothing was changed; try again" in error["message"]
    assert [item["promoted"] for item in cli.json("checkpoints", done["id"])].count(True) == 1


def test_cancel_while_waiting(cli: Cli, job: Job, job_file: Write) -> None:
    """A waiting job is canceled immediately, and a retry requeues it."""
    job_id = cli.json("submit", job_file(job))["id"]

    assert cli.json("cancel", job_id) == {"id": job_id, "status": "canceled"}
    assert cli.run("watch", job_id).returncode == 1
    assert cli.json("retry", job_id)["status"] == "queued"
    assert cli.run("retry", job_id).returncode == 2


def test_cancel_while_running(cli: Cli, job: Job, job_file: Write) -> None:
    """A running job stops within a step."""
    job["backend"] = "tinkex"
    job["payload"]["max_steps"] = 5000
    with cli.dev_server("--work-ms", 20), cli.running("worker"):
        job_id = cli.json("submit", job_file(job))["id"]
        assert cli.wait_for_step() == job_id
        cli.run("cancel", job_id)
        ended = cli.wait_for(job_id, "canceled")

    assert ended.status == "canceled"
    assert len(cli.json("steps", job_id)) < 5000


def test_waiting_too_long_is_124(cli: Cli, job: Job, job_file: Write) -> None:
    """The exit code reports the timeout, and the job stays queued."""
    submitted = cli.run("submit", job_file(job), "--wait", "--timeout", 0.2)
    job_id = submitted.stdout.strip()

    assert submitted.returncode == 124
    assert cli.run("watch", job_id, "--timeout", 0.2).returncode == 124
    assert cli.json("show", job_id)["status"] == "queued"


def test_an_answer_through_the_queue(cli: Cli, job_file: Write) -> None:
    """An inference job prints its answer."""
    prompt = {
        "messages": [{"role": "user", "content": "Hi"}],
        "options": {"model": "tiny-lm", "max_tokens": 8, "seed": 1},
    }
    done = cli.run("run", job_file({"kind": "inference", "backend": "fake", "payload": {"prompt": prompt}}))

    assert done.returncode == 0, done.stderr
    assert "answer" in done.stdout


def test_a_failed_job_is_1_with_its_error(cli: Cli, job_file: Write) -> None:
    """The error with its code goes to stderr, without a traceback."""
    failing = {
        "kind": "backend_command",
        "backend": "fake",
        "payload": {"command": "fail", "arguments": {"code": "invalid_request"}},
        "retry_policy": {"max_attempts": 1},
    }
    done = cli.run("run", job_file(failing))

    assert done.returncode == 1
    assert "invalid_request" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_requeues_the_job(cli: Cli, job: Job, job_file: Write) -> None:
    """``run`` stops cleanly; a worker finishes the same job, each step once."""
    job["backend"] = "tinkex"
    job["payload"]["max_steps"] = 60
    with cli.dev_server("--work-ms", 20):
        with cli.running("run", job_file(job)) as process:
            job_id = cli.wait_for_step()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 130, output
        assert "nsai-work worker" in output
        assert cli.stored()[0].status == "queued"
        with cli.running("worker"):
            ended = cli.wait_for(job_id, "succeeded", "failed")

    assert ended.status == "succeeded", ended.error
    assert [step["step"] for step in cli.json("steps", job_id)] == list(range(1, 61))


def test_ctrl_c_twice_stops_immediately(cli: Cli, job_file: Write) -> None:
    """A job that does not stop cannot block the exit, and it is not lost."""
    command = {"command": "sleep", "arguments": {"ms": 100_000}}
    sleeping = {"kind": "backend_command", "backend": "fake", "payload": command}
    with cli.running("run", job_file(sleeping)) as process:
        assert process.stdout is not None
        until(lambda: "running" in process.stdout.readline(), "the job is running")
        process.send_signal(signal.SIGINT)
        until(lambda: cli.stored()[0].status == "running", "the first Ctrl-C lets the job continue")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "nsai-work worker" in output
