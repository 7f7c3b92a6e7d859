"""What an import costs, against the imports that a user would have paid anyway.

    python benchmarks/imports.py [--sdk PYTHON] [--rounds 15]

Every import runs in a fresh interpreter; reported are medians of its processor time, the interpreter's own start
not counted. ``--sdk`` is a Python that has the official ``tinker`` SDK, by default the peers' environment of its
newest version.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from own_processes import run_main
from peer_environment import NEWEST_SDK, REPOSITORY, how_to_install, peer_python

PYDANTIC, OURS = "import pydantic", "import nsai_work, crucible"
MODEL, JOB = "from pydantic import BaseModel", "Job, CheckpointPolicy, Prompt"
TINKER, TINKEX, CLIENT = "import tinker", "import backends.tinkex", "tinkex.ServiceClient"
RATIOS = ((OURS, PYDANTIC, 1.3), (TINKEX, TINKER, 0.5), (CLIENT, TINKER, None), (JOB, MODEL, None))
"""Ours, theirs, and at most how much of theirs ours is to cost. Names come when first used, so what really using
them costs is shown beside."""
_TIMED = "import time; began = time.process_time(); {statement}; print(time.process_time() - began)"


def seconds(python: Path, statement: str) -> float:
    """One import in a fresh interpreter, bytecode in place, as measured inside it."""
    program = _TIMED.format(statement=statement)
    done = subprocess.run([python, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return float(done.stdout)


def medians(cases: dict[str, tuple[Path, str]], rounds: int) -> dict[str, float]:
    """The median of each case; the cases take turns, so that a slow moment of the machine hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for python, statement in cases.values():
        seconds(python, statement)  # compiles what is not compiled
    for _ in range(rounds):
        for name, (python, statement) in cases.items():
            found[name].append(seconds(python, statement))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> int:
    """Print the table; 1 if an aim is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sdk", type=Path, default=peer_python(NEWEST_SDK))
    arguments.add_argument("--rounds", type=int, default=15)
    chosen = arguments.parse_args()
    here = Path(sys.executable)
    cases = {
        PYDANTIC: (here, "import pydantic"),
        OURS: (here, "import nsai_work, crucible"),
        MODEL: (here, "from pydantic import BaseModel"),
        JOB: (here, "from nsai_work import Job, CheckpointPolicy; from crucible import Prompt"),
        TINKEX: (here, "import backends.tinkex"),
        CLIENT: (here, "from backends.tinkex import ServiceClient"),
    }
    if chosen.sdk is not None:
        cases[TINKER] = (chosen.sdk, "import tinker")
    else:
        print(f"without the official SDK: {how_to_install(NEWEST_SDK)}")
    found = medians(cases, chosen.rounds)
    for name, median in found.items():
        print(f"{name:34} {median * 1000:7.1f} ms")
    return print_ratios(found)


def print_ratios(found: dict[str, float]) -> int:
    """Each ratio beside its aim; 1 if one is missed."""
    missed = 0
    for ours, theirs, aim in RATIOS:
        if theirs in found:
            ratio = found[ours] / found[theirs]
            print(f"{ours} / {theirs}: {ratio:.2f}" + (f" (aim: at most {aim})" if aim else ""))
            missed |= int(aim is not None and ratio > aim)
    return missed


if __name__ == "__main__":
    run_main(main)
