"""Reinforcement learning that is killed and corrupted on the way, and ends as a run that was left alone.

Run it from the repository: ``make demo-rl``. It needs nothing but this machine, and takes about a minute.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.tinkex_dev.server import DEV_KEY, DevProcess
from nsai_work import JobHandle, submit
from nsai_work.client.connections import close_connections
from nsai_work.client.jobfile import load_job

EXAMPLES = Path(__file__).parent
WAIT_S = 240.0


def main() -> int:
    """Train twice, once undisturbed, and compare."""
    with tempfile.TemporaryDirectory() as home, DevProcess(Path(home) / "server") as server:
        os.environ.update(
            {
                "NSAI_WORK_HOME": home,
                "NSAI_WORK_LEASE_TTL_S": "2",
                "NSAI_WORK_PYTHON_ALLOW": "sums",
                "NSAI_WORK_SWEEP_INTERVAL_S": "0.2",
                "PYTHONPATH": str(EXAMPLES),
                "TINKER_API_KEY": DEV_KEY,
                "TINKER_BASE_URL": server.url,
            }
        )
        alone = undisturbed()
        rewards = [step.metrics["reward"] for step in alone.steps()]
        print(
            "mean reward of every fifth step:", *(f"{reward:.3f}" for reward in rewards[::5]), f"{rewards[-1]:.3f}"
        )
        disturbed = killed_and_corrupted(server)
        same = outcome(disturbed, server) == outcome(alone, server)
        print("rewards, losses and weights of both runs:", "equal, bit for bit" if same else "DIFFERENT")
        return 0 if same and rewards[-1] >= 2 * max(rewards[0], 0.01) else 1


def undisturbed() -> JobHandle:
    """Run the job with one worker, which is left alone."""
    handle = submit(load_job(EXAMPLES / "reinforce.yaml"))
    with worker():
        handle.result(timeout=WAIT_S)
    print("undisturbed:", handle.id, "has ended")
    return handle


def killed_and_corrupted(server: DevProcess) -> JobHandle:
    """Run the same job; its worker is killed three times, and its run is marked corrupted once."""
    handle = submit(load_job(EXAMPLES / "reinforce.yaml"))
    for number, step in enumerate((5, 11, 17)):
        with worker() as process:
            wait_until(lambda step=step: len(handle.steps()) >= step)
            process.kill()
        print(f"killed: the worker, after step {len(handle.steps())}")
        if number == 1:
            server.fault(kind="corrupt", model_id=newest_run(handle))
            print("corrupted: the run at the service")
    with worker():
        result = handle.result(timeout=WAIT_S)
    print("disturbed:", handle.id, "has ended;", result["recoveries"], "restored from a checkpoint")
    return handle


def newest_run(handle: JobHandle) -> str:
    """Return the id of the job's run at the service."""
    [*_, began] = [event for event in handle.events() if event.name == "run.began"]
    return str(began.data["run_id"])


def outcome(handle: JobHandle, server: DevProcess) -> object:
    """Return what a run comes to."""
    rollouts = [(one.step, one.group, one.member, one.reward, one.tokens) for one in handle.rollouts()]
    result = handle.job().result or {}
    return [
        [(step.loss, step.metrics) for step in handle.steps()],
        rollouts,
        server.checkpoint_digest(str(result["checkpoint"])),
    ]


@contextmanager
def worker() -> "Iterator[subprocess.Popen[bytes]]":
    """Start a worker, and kill it at the end of the context."""
    command = [sys.executable, "-m", "nsai_work.cli", "worker"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the run does not advance")
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        close_connections()
