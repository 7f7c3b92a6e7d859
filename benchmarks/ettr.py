"""Effective training time under kills and corruptions, of our jobs and of loops of one's own.

    python benchmarks/ettr.py [--runs 3] [--kills 10] [--corruptions 4] [--postgres URL] [--only SUBSTRING]
                              [--sdk PYTHON] [--cookbook PYTHON] [--no-peers] [--no-namespaces]

Each subject trains on a development server of its own that needs 100 ms for an operation, so 0.2 s for a step,
once left alone and then ``--runs`` times while its owner is SIGKILLed ``--kills`` times, each after ten seconds of
owning the run. The cost of a kill is the time that a run took longer, by kill; the effective training time ratio is
that of a kill a minute, 60 / (60 + cost). A recovery is the time from the last result before a kill to the first
one after it. Costs and quantiles are those of the median run.

Ours runs with two workers, of which one stands by, and a killed one is started again; on PostgreSQL also with each
worker in a PID and a mount namespace of its own, as in containers. The peers are a plain loop with the official SDK
and the cookbook's recipe ``chat_sl``; both save every 20 steps, and are started again at once from their last save.

Then our runs are corrupted ``--corruptions`` times, seen by an error, by NaN, and by the service's flag alone,
with ``save_every: 20``, at steps that are spread over the time between two saves. The ratio there is that of a
corruption every five minutes, 300 / (300 + cost).

Returns 1 if losses of ours differ, a step was lost to a kill or applied twice, or an aim is missed.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ettr_subjects.cookbook import CookbookRun
from ettr_subjects.ours import Deployment, OurRun
from ettr_subjects.sdk_loop import SdkRun
from ettr_subjects.timing import Corruptions, Kills, Subject, Timing, run_to_end
from own_processes import run_main
from peer_environment import COOKBOOK, NEWEST_SDK, how_to_install, peer_python

from backends.tinkex_dev.server import DevProcess

WORK_MS = 100
KILL_AFTER_S = 10.0
STEPS_PER_KILL = 50
LAST_STEPS = 20
KILL_EVERY_S, CORRUPTED_EVERY_S = 60.0, 300.0
CORRUPTED_EVERY = 38
"""Steps between corruptions: spread over the 20 steps between two saves, and more than are made again."""
MODES = {"an error": "flag", "NaN": "nan", "the flag alone": "silent"}


@dataclass(frozen=True)
class Aim:
    """The ratio and the recovery times that a row has to reach."""

    ratio: float
    p50_s: float = float("inf")
    p99_s: float = float("inf")


ONE_HOST = Aim(0.98, 1.0, 3.0)
BETWEEN_NAMESPACES = Aim(0.97, 1.5, 4.0)
CORRUPTED = Aim(0.90)

Make = Callable[[Path, str], Subject]


@dataclass(frozen=True)
class Row:
    """A subject's figures over all its runs, under kills or under corruptions."""

    name: str
    alone: Timing
    runs: list[Timing]
    by_kills: bool

    @property
    def cost_s(self) -> float:
        """The cost of a disturbance, in the median run."""
        return median(max(run.wall_s - self.alone.wall_s, 0.0) / max(len(run.disturbed_at), 1) for run in self.runs)

    @property
    def ratio(self) -> float:
        """The effective training time ratio."""
        every_s = KILL_EVERY_S if self.by_kills else CORRUPTED_EVERY_S
        return every_s / (every_s + self.cost_s)

    def recovery_s(self, share: float) -> float:
        """A quantile of the recoveries, in the median run."""
        ordered = [sorted(run.recoveries_s) for run in self.runs]
        return median(times[min(int(len(times) * share), len(times) - 1)] for times in ordered if times)

    @property
    def twice(self) -> int:
        """The steps that the server applied more often than they were recorded for the first time, in all runs."""
        return sum(run.applied - len({result.step for result in run.results}) for run in self.runs)

    @property
    def equal(self) -> bool:
        """All runs have the losses of the one left alone."""
        return all(run.losses == self.alone.losses for run in self.runs)

    def reaches(self, aim: Aim) -> bool:
        """The ratio and, under kills, the recoveries are within the aim."""
        recovers = not self.by_kills or (self.recovery_s(0.5) <= aim.p50_s and self.recovery_s(0.99) <= aim.p99_s)
        return self.ratio >= aim.ratio and recovers

    def text(self) -> str:
        """The row of the table."""
        # results go on after a corruption until it is seen, so the first one after it says nothing
        recoveries = " " * 29
        if self.by_kills:
            longest = max(time for run in self.runs for time in run.recoveries_s)
            recoveries = f"{self.recovery_s(0.5):6.2f} s {self.recovery_s(0.99):6.2f} s {longest:6.2f} s  "
        lost = sum(run.lost for run in self.runs)
        return (
            f"{self.name:38} {self.alone.wall_s:7.1f} s {self.cost_s:6.2f} s  {self.ratio:6.3f}"
            f"  {recoveries}{sum(len(run.disturbed_at) for run in self.runs):5} {lost:6}"
            f" {self.twice:8}  {self.equal}"
        )


HEAD = "{:38} {:>9} {:>8}  {:>6}  {:>8} {:>8} {:>8}  {:>5} {:>6} {:>8}  {}".format(
    "", "alone", "cost", "ETTR", "p50", "p99", "longest", "times", "lost", "repeated", "equal"
)


@contextmanager
def prepared(make: Make) -> Iterator[tuple[DevProcess, Subject]]:
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


def alone(make: Make) -> Timing:
    """Time a run that is left alone."""
    with prepared(make) as (server, subject):
        return run_to_end(server, subject)


def killed(name: str, make: Make, runs: int, kills: int) -> Row:
    """Run a subject alone, then ``runs`` times under kills."""
    undisturbed, timings = alone(make), []
    for _ in range(runs):
        with prepared(make) as (server, subject):
            timings.append(run_to_end(server, subject, Kills(kills, KILL_AFTER_S)))
    row = Row(name, undisturbed, timings, by_kills=True)
    print(row.text(), flush=True)
    return row


def corrupted(make: Make, number: int) -> list[Row]:
    """Run a subject alone, then once for each way in which a corruption is seen."""
    undisturbed, rows = alone(make), []
    for seen_by, mode in MODES.items():
        with prepared(make) as (server, subject):
            moments = [CORRUPTED_EVERY * (place + 1) for place in range(number)]
            timing = run_to_end(server, subject, Corruptions(mode, moments))
        rows.append(Row(f"ours, corrupted, seen by {seen_by}", undisturbed, [timing], by_kills=False))
        print(rows[-1].text(), flush=True)
    return rows


def our_rows(chosen: argparse.Namespace, steps: int) -> Iterator[bool]:
    """Measure our rows. Yields whether each is exact and reaches its aim."""
    deployments = {"ours, SQLite, one host": (Deployment(), ONE_HOST)}
    if chosen.postgres:
        deployments["ours, PostgreSQL, one host"] = (Deployment(chosen.postgres), ONE_HOST)
        if not chosen.no_namespaces:
            apart = Deployment(chosen.postgres, namespaces=True)
            deployments["ours, PostgreSQL, namespaces"] = (apart, BETWEEN_NAMESPACES)
    for name, (at, aim) in deployments.items():
        if chosen.only in name:
            row = killed(name, lambda folder, url, at=at: OurRun(folder, url, at, steps), chosen.runs, chosen.kills)
            yield row.equal and row.reaches(aim) and row.twice == sum(run.lost for run in row.runs) == 0
    if chosen.corruptions and chosen.only in "ours, corrupted":
        length = CORRUPTED_EVERY * chosen.corruptions + LAST_STEPS
        make = lambda folder, url: OurRun(folder, url, Deployment(), length)  # noqa: E731
        for row in corrupted(make, chosen.corruptions):
            yield row.equal and row.reaches(CORRUPTED)


def peer_rows(chosen: argparse.Namespace, steps: int) -> None:
    """Measure the peers."""
    makes: dict[str, Make] = {
        "SDK loop, saves every 20": lambda folder, url: SdkRun(folder, url, chosen.sdk, steps),
        "cookbook chat_sl, saves every 20": lambda folder, url: CookbookRun(folder, url, chosen.cookbook, steps),
    }
    for name, make in makes.items():
        if chosen.only in name:
            killed(name, make, chosen.runs, chosen.kills)


def main() -> int:
    """Measure all subjects; 1 if ours are not exact or miss an aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--corruptions", type=int, default=4, help="in a run; 0 leaves these rows out")
    parser.add_argument("--postgres", help="URL of a PostgreSQL database in which schemas may be made")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="subjects whose name contains it")
    parser.add_argument("--sdk", type=Path, default=peer_python(NEWEST_SDK))
    parser.add_argument("--cookbook", type=Path, default=peer_python(COOKBOOK))
    parser.add_argument("--no-peers", action="store_true", help="leave both peers out")
    parser.add_argument("--no-namespaces", action="store_true", help="for machines where unshare is not allowed")
    chosen = parser.parse_args()
    if not chosen.no_peers:
        for option, peer in (("sdk", NEWEST_SDK), ("cookbook", COOKBOOK)):
            if getattr(chosen, option) is None:
                parser.error(f"--{option}: is not there; {how_to_install(peer)}, or leave it out: --no-peers")
    print(HEAD, flush=True)
    steps = STEPS_PER_KILL * chosen.kills + LAST_STEPS
    reached = list(our_rows(chosen, steps))
    if not chosen.no_peers:
        peer_rows(chosen, steps)
    return int(not all(reached))


if __name__ == "__main__":
    run_main(main)
