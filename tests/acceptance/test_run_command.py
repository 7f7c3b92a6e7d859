"""``nsai-work run``: of files and lists, of jobs that are there, and what it says when it is interrupted."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Cli, until

Job = dict[str, Any]
Write = Callable[[Any], Path]

pytestmark = pytest.mark.timeout(300)


def command(name: str, **arguments: object) -> Job:
    """A job with a command of the fake backend."""
    return {"kind": "backend_command", "backend": "fake", "payload": {"command": name, "arguments": arguments}}


def test_run_goes_on_with_a_submitted_job(cli: Cli, job: Job, job_file: Write) -> None:
    """By its id or a part of it; no second job is made."""
    job_id = cli.json("submit", job_file(job))["id"]

    done = cli.json("run", job_id[-8:])

    assert (done["id"], done["status"]) == (job_id, "succeeded")
    assert len(cli.stored()) == 1


def test_run_of_an_interrupted_job_goes_on_where_it_stopped(cli: Cli, job: Job, job_file: Write) -> None:
    """Ctrl-C prints the command that resumes the job; each step counts once."""
    job["backend"] = "tinkex"
    job["payload"]["max_steps"] = 40
    with cli.dev_server("--work-ms", 20):
        with cli.running("run", job_file(job)) as process:
            job_id = cli.wait_for_step()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        assert f"nsai-work run {job_id}" in output
        done = cli.json("run", job_id)

    assert (done["id"], done["status"]) == (job_id, "succeeded")
    assert [step["step"] for step in cli.json("steps", job_id)] == list(range(1, 41))


def test_run_of_an_ended_job_shows_how_it_ended(cli: Cli, job_file: Write) -> None:
    """A success is shown again; a failure says how to run it again, and speaks of no checkpoint."""
    good = cli.json("run", job_file(command("echo", value=5)))["id"]
    failing = command("fail", code="invalid_request") | {"retry_policy": {"max_attempts": 1}}
    failed = cli.json("run", job_file(failing), code=1)["id"]

    again, refused = cli.run("run", good), cli.run("run", failed)

    assert (again.returncode, "value   5" in again.stdout) == (0, True)
    assert refused.returncode == 1
    assert f"nsai-work retry {failed}, then nsai-work run {failed}" in refused.stderr
    assert "checkpoint" not in refused.stderr
    assert len(cli.stored()) == 2


def test_run_of_a_list(cli: Cli, job: Job, job_file: Write) -> None:
    """All jobs run, in the order that they need; the lines of each begin with its name."""
    jobs = [
        job | {"name": "tune"},
        command("echo", value=1) | {"name": "after"},
        command("fail", code="invalid_request") | {"name": "bad", "retry_policy": {"max_attempts": 1}},
    ]

    done = cli.run("run", job_file(jobs))
    listed = cli.json("run", job_file(jobs[:2]))

    assert done.returncode == 1
    assert "tune: step 6/6" in done.stderr
    assert "after: succeeded" in done.stderr
    assert "bad: failed" in done.stderr
    assert "[invalid_request]" in done.stderr
    assert done.stdout.count("status") == 2
    assert [item["status"] for item in listed] == ["succeeded", "succeeded"]


def test_ctrl_c_does_not_claim_to_stop_the_job_of_another_worker(cli: Cli, job_file: Write) -> None:
    """``run ID`` of a job that a worker has follows it; Ctrl-C says that it continues there."""
    with cli.running("worker"):
        job_id = cli.json("submit", job_file(command("sleep", ms=60_000)))["id"]
        cli.wait_for(job_id, "running")
        with cli.running("run", job_id) as process:
            assert process.stdout is not None
            until(lambda: "running" in process.stdout.readline(), "the job is followed")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        status = cli.stored()[0].status
        # otherwise the worker would give the job its grace period
        cli.run("cancel", job_id)
        cli.wait_for(job_id, "canceled")

    assert process.returncode == 130, output
    assert status == "running"
    assert "continues on another worker" in output
    assert f"nsai-work watch {job_id}" in output
    assert "stop" not in output.replace("to stop it: nsai-work cancel", "")


def test_neither_a_file_nor_a_job(cli: Cli, job_file: Write) -> None:
    """A missing file with the suffix of a job file is bad input; anything else may have been an id."""
    cli.json("submit", job_file(command("noop")))

    file, other = cli.run("run", "missing.yaml"), cli.run("run", "missing")

    assert (file.returncode, "missing.yaml" in file.stderr) == (2, True)
    assert (other.returncode, "neither a file nor a job" in other.stderr) == (3, True)


def test_submit_and_wait_says_which_job_failed_and_why(cli: Cli, job_file: Write) -> None:
    """For people, and as a line of JSON for each failed job."""
    failing = command("fail", code="invalid_request", times=3) | {"retry_policy": {"max_attempts": 1}}
    with cli.running("worker"):
        text = cli.run("submit", job_file([command("noop"), failing]), "--wait")
        data = cli.run("submit", job_file([failing, command("noop"), failing]), "--wait", "--json")

    bad = text.stdout.split()[1]
    assert text.returncode == 1
    assert f"job {bad} failed" in text.stderr
    assert "[invalid_request]" in text.stderr
    ids = [item["id"] for item in json.loads(data.stdout)]
    lines = [json.loads(line) for line in data.stderr.splitlines()]
    assert [(line["id"], line["status"]) for line in lines] == [(ids[0], "failed"), (ids[2], "failed")]
    assert {line["error"]["code"] for line in lines} == {"invalid_request"}


def test_waiting_too_long_is_a_json_error_for_scripts(cli: Cli, job_file: Write) -> None:
    """submit --wait and watch, with the id of the job."""
    submitted = cli.run("submit", job_file(command("noop")), "--wait", "--timeout", 0.2, "--json")
    job_id = json.loads(submitted.stdout)["id"]
    watched = cli.run("watch", job_id, "--timeout", 0.2, "--json")

    for done in (submitted, watched):
        error = json.loads(done.stderr)["error"]
        assert done.returncode == 124
        assert (error["code"], error["details"]["job_id"]) == ("wait_timed_out", job_id)
        assert "continues" in error["message"]


def test_the_next_page_begins_after_a_short_id(cli: Cli, job_file: Write) -> None:
    """list --after takes what all commands take as an id."""
    older, newer = (cli.json("submit", job_file(command("noop")))["id"] for _ in range(2))

    assert [item["id"] for item in cli.json("list", "--after", newer[-8:])] == [older]


def test_promote_and_retry_say_what_to_do_instead(cli: Cli, job_file: Write) -> None:
    """An unknown checkpoint names the job and the command that lists them; a success cannot be retried."""
    job_id = cli.json("run", job_file(command("noop")))["id"]

    promoted, retried = cli.run("promote", job_id, "nope"), cli.run("retry", job_id)

    assert promoted.returncode == 3
    assert f"job {job_id} has no checkpoint 'nope'; nsai-work checkpoints {job_id}" in promoted.stderr
    assert retried.returncode == 2
    assert "submit it as a new job" in retried.stderr


def test_what_functions_print_is_no_data(cli: Cli, job: Job, job_file: Write, tmp_path: Path) -> None:
    """It goes to stderr: stdout is the JSON of the command, at submit and at the run."""
    (tmp_path / "loud.py").write_text(
        "print('loaded')\n"
        "def objective(data, logprobs):\n"
        "    print('computed')\n"
        "    weights = [datum.loss_inputs['weights'] for datum in data]\n"
        "    return 1.0, [[-float(weight) for weight in each] for each in weights], {}\n"
    )
    cli.variables.update(PYTHONPATH=str(tmp_path), NSAI_WORK_PYTHON_ALLOW="loud")
    job["payload"] |= {"objective": {"name": "loud:objective"}, "max_steps": 2}
    submitted = cli.run("submit", "--json", job_file(job))
    assert json.loads(submitted.stdout)["id"]
    done = cli.run("run", "--json", job_file(job))
    assert json.loads(done.stdout)["result"]["steps"] == 2
    assert {"loaded", "computed"} <= {*done.stderr.splitlines()}
