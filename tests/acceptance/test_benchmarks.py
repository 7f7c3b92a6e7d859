"""A benchmark that is interrupted ends, and leaves nothing behind.

The short form has one with many processes and one with few, and SIGINT; the others are in ``make test-slow``.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WAIT_S = 120
BENCHMARKS = {
    "ettr": (4, "ettr.py", "--no-peers", "--runs", "1", "--kills", "1"),
    "many_runs": (3, "many_runs.py", "--runs", "2", "--steps", "1000"),
    "idle": (2, "idle.py"),
}
"""The number of processes with servers and workers, and the command."""


def members(group: int) -> set[int]:
    """The processes of a group, as Linux lists them, zombies too."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group:
            found.add(int(stat.parent.name))
    return found


def until_members(group: int, least: int, most: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a group has so many processes."""
    deadline = time.monotonic() + WAIT_S
    while not least <= len(members(group)) <= most:
        assert time.monotonic() < deadline, f"{members(group)} after {WAIT_S} s"
        assert process.poll() is None or most == 0, "the benchmark has ended by itself"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("benchmark", "number"),
    [
        ("ettr", signal.SIGINT),
        ("idle", signal.SIGINT),
        pytest.param("many_runs", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("ettr", signal.SIGTERM, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_interrupted_benchmark_ends_with_its_processes(
    benchmark: str, number: signal.Signals, tmp_path: Path
) -> None:
    """Also in the background of a shell, which has it ignore SIGINT; the signal reaches the benchmark alone."""
    processes, script, *options = BENCHMARKS[benchmark]
    command = [sys.executable, f"benchmarks/{script}", *map(str, options)]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until_members(process.pid, processes, 100, process)
        process.send_signal(number)
        assert process.wait(WAIT_S) not in (0, -signal.SIGKILL)
        until_members(process.pid, 0, 0, process)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
