"""Effective training time under kills: a run whose owner is SIGKILLed after every ten seconds of owning it.

    python benchmarks/ettr.py [--steps 500] [--runs 3] [--postgres URL] [--sdk PYTHON] [--no-namespaces]

Each subject trains the same job on a development server of its own that needs 100 ms for an operation, once left
alone and then under kills. What a kill costs is the time that the run took longer, by kill; the effective training
time ratio is that of a kill a minute, 60 / (60 + cost). A recovery is the time from the last result before a kill
to the first one after it. Ours runs with two workers, of which one stands by, and a killed one is started again;
on PostgreSQL also with each worker in a PID and a mount namespace of its own, as in containers. The peer is a plain
loop with the official SDK that saves every 20 steps, started again at once from its last save.

The losses of our killed runs must equal those of the run left alone, and the server must have applied each step
once.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ettr_subjects.ours import Deployment, OurRun
from ettr_subjects.sdk_loop import SdkRun
from ettr_subjects.timing import Killed, Subject, run_under_kills
from peer_environment import NEWEST_SDK, how_to_install, peer_python

from backends.tinkex_dev.server import DevProcess

WORK_MS = 100
KILL_AFTER_S = 10.0


@dataclass(frozen=True)
class Row:
    """A subject's figures over all its runs."""

    name: str
    undisturbed_s: float
    runs: list[Killed]
    steps: int

    @property
    def cost_s(self) -> float:
        """What a kill costs, in the median run."""
        return median(max(run.wall_s - self.undisturbed_s, 0.0) / max(run.kills, 1) for run in self.runs)

    def text(self) -> str:
        """The row of the table."""
        recoveries = sorted(time for run in self.runs for time in run.recoveries_s)
        p50, p99 = (recoveries[min(int(len(recoveries) * share), len(recoveries) - 1)] for share in (0.5, 0.99))
        repeated = sum(run.applied for run in self.runs) - self.steps * len(self.runs)
        equal = all(run.losses == self.runs[0].losses for run in self.runs)
        return (
            f"{self.name:34} {self.undisturbed_s:7.1f} s {self.cost_s:6.2f} s  {60 / (60 + self.cost_s):6.3f}"
            f"  {p50:6.2f} s {p99:6.2f} s  {sum(run.kills for run in self.runs):5}  {repeated:8}  {equal}"
        )


def measure(name: str, make: Callable[[Path, str], Subject], steps: int, runs: int) -> Row:
    """Run a subject alone, then ``runs`` times under kills."""
    with prepared(make) as (server, subject):
        alone = run_under_kills(server, subject, kill_after_s=None)
    killed = []
    for _ in range(runs):
        with prepared(make) as (server, subject):
            killed.append(run_under_kills(server, subject, kill_after_s=KILL_AFTER_S))
    row = Row(name, alone.wall_s, killed, steps)
    print(row.text(), flush=True)
    if any(run.losses != alone.losses for run in killed):
        print(f"  the losses of {name} differ from those of the run left alone")
    return row


@contextmanager
def prepared(make: Callable[[Path, str], Subject]) -> Iterator[tuple[DevProcess, Subject]]:
    """A fresh server and a subject that trains on it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        DevProcess(Path(folder) / "server", "--work-ms", str(WORK_MS)) as server,
    ):
        subject = make(Path(folder), server.url)
        try:
            yield server, subject
        finally:
            subject.close()


def main() -> int:
    """Measure all subjects; 1 if our losses differ or a step was applied twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--postgres", help="URL of a PostgreSQL database in which schemas may be made")
    parser.add_argument("--sdk", type=Path, default=peer_python(NEWEST_SDK))
    parser.add_argument("--no-sdk", action="store_true", help="leave the peer out")
    parser.add_argument("--no-namespaces", action="store_true", help="for machines where unshare is not allowed")
    chosen = parser.parse_args()
    if chosen.sdk is None and not chosen.no_sdk:
        parser.error(
            f"--sdk: the official SDK is not there; {how_to_install(NEWEST_SDK)}, or leave it out: --no-sdk"
        )
    heads = ("", "alone", "a kill", "ETTR", "p50", "p99", "kills", "repeated", "equal")
    print("{:34} {:>9} {:>8}  {:>6}  {:>8} {:>8}  {:>5}  {:>8}  {}".format(*heads))
    deployments = {"ours, SQLite, one host": Deployment()}
    if chosen.postgres:
        deployments["ours, PostgreSQL, one host"] = Deployment(chosen.postgres)
        if not chosen.no_namespaces:
            deployments["ours, PostgreSQL, namespaces"] = Deployment(chosen.postgres, namespaces=True)
    ours = [
        measure(name, lambda folder, url, at=at: OurRun(folder, url, at, chosen.steps), chosen.steps, chosen.runs)
        for name, at in deployments.items()
    ]
    if chosen.sdk is not None and not chosen.no_sdk:
        measure(
            "SDK loop, saves every 20",
            lambda folder, url: SdkRun(folder, url, chosen.sdk, chosen.steps),
            chosen.steps,
            chosen.runs,
        )
    exact = all(
        run.losses == row.runs[0].losses and run.applied == chosen.steps for row in ours for run in row.runs
    )
    return int(not exact)


if __name__ == "__main__":
    sys.exit(main())
