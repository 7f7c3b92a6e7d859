"""The server as a process: its output, its discovery file and its exit."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from backends.tinkex.discovery import dev_server_file, running_dev_server
from backends.tinkex_dev.errors import StateUnusable
from backends.tinkex_dev.server import DevProcess, DevServer


def test_it_says_where_it_listens_and_is_found(tmp_path):
    """The URL is printed and published in the home folder while it runs, and removed afterwards."""
    with DevProcess(tmp_path / "state") as server:
        assert httpx.get(f"{server.url}/api/v1/healthz", trust_env=False).json() == {"status": "ok"}
        assert running_dev_server() == server.url
        assert json.loads(dev_server_file().read_text())["pid"] == server.pid

    assert running_dev_server() is None
    assert not dev_server_file().exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_a_signal_ends_it_well_though_a_call_is_held(tmp_path, number: int):
    """Exit status 0 at once, with a client waiting for a promise; plain text names the address and the key."""
    command = [sys.executable, "-m", "backends.tinkex_dev", "--port", "0", "--state", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        os.kill(process.pid, number)
        status = process.wait(10)

    assert lines[0].startswith("listening on http://127.0.0.1:")
    assert lines[1].startswith("export TINKER_BASE_URL=http://127.0.0.1:")
    assert status == 0


def test_a_port_that_is_taken_is_said(tmp_path):
    """Exit status 2, with advice."""
    with DevProcess(tmp_path / "a") as server:
        port = server.url.rpartition(":")[2]
        command = [sys.executable, "-m", "backends.tinkex_dev", "--port", port, "--state", str(tmp_path / "b")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "choose another --port" in done.stderr


def test_a_second_server_on_one_state_folder_is_refused(tmp_path):
    """Exit status 2, with advice; the folder is free again once the first server exits, even by a kill."""
    command = [sys.executable, "-m", "backends.tinkex_dev", "--port", "0", "--state", str(tmp_path)]
    with DevProcess(tmp_path) as first:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        pid = first.pid
        first.kill()

    assert done.returncode == 2
    assert done.stderr == (
        f"error: the state folder {tmp_path} is in use by another server (process {pid}); "
        "choose another folder with --state\n"
    )
    with DevServer(tmp_path) as again:
        assert httpx.get(f"{again.url}/api/v1/healthz", trust_env=False).status_code == 200


def test_a_state_folder_that_cannot_be_made_is_said(tmp_path):
    """The error names the folder, not the port."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StateUnusable, match=r"state folder .* cannot be used: Not a directory"):
        DevServer(tmp_path / "file" / "state").start()


def test_what_was_saved_survives_a_kill(tmp_path, connect):
    """After a SIGKILL the checkpoint loads in the next process, and training resumes exactly."""
    with DevProcess(tmp_path) as server:
        api = connect(server)
        model = api.model(api.session())
        api.train(model, 2)
        path = api.do("save_weights", model_id=model, seq_id=5, path="two")["path"]
        after = api.train(model, 2, first_seq=6)
        server.kill()

    with DevProcess(tmp_path) as server:
        api = connect(server)
        model = api.model(api.session())
        api.do("load_weights", model_id=model, seq_id=1, path=path, optimizer=True)
        assert api.train(model, 2, first_seq=2) == after
        assert [e["step"] for e in server.log(kind="optim_step")] == [1, 2, 3, 4, 3, 4]


def test_the_number_of_threads_changes_no_bit(tmp_path, connect):
    """With one or two threads for linear algebra, the server computes the same losses and weights."""
    seen = []
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads}
        with DevProcess(tmp_path / threads, environment=environment) as server:
            api = connect(server)
            model = api.model(api.session(), rank=16)
            seen.append((api.train(model, 3), server.weights_digest(model)))

    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("home", "folder"), [("~/h", "h"), ("h", "h"), ("", ".state/nsai-work"), (None, ".state/nsai-work")]
)
def test_the_state_folder_is_in_the_home_folder(tmp_path, home: str | None, folder: str) -> None:
    """With ``~``, relative, empty and unset: state and discovery file are in the folder that Settings resolves."""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / ".state")}
    environment.pop("NSAI_WORK_HOME", None)
    if home is not None:
        environment["NSAI_WORK_HOME"] = home
    command = [sys.executable, "-m", "backends.tinkex_dev", "--port", "0", "--json"]

    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        assert (tmp_path / folder / "dev-server.json").exists()
        assert (tmp_path / folder / "dev-server" / "log.jsonl").exists()
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.partition("/")[0]]
