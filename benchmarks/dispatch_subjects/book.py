"""How every subject keeps its book: one line ``key time`` when a job was submitted, and when its body ran."""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence


def note(which: str, keys: Sequence[str]) -> None:
    """Append a line for each key; lines of several processes do not mix."""
    now = time.time()
    file = os.open(os.environ["BENCH_OUT"] + which, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, "".join(f"{key} {now:.6f}\n" for key in keys).encode())
    os.close(file)


def body(key: str) -> None:
    """What a job does: nothing but be seen."""
    note(".ran", [key])


def main(work: Callable[[], None], submit: Callable[[Sequence[str]], None], *, bulk: bool) -> None:
    """``SUBJECT work`` serves; ``SUBJECT submit PREFIX COUNT PAUSE_S`` submits. ``bulk`` subjects are given 100 at
    once when there is no pause, since that is how they are meant to be used."""
    if sys.argv[1] == "work":
        work()
        return
    prefix, count, pause_s = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    size = 100 if bulk and not pause_s else 1
    keys = [f"{prefix}{number}" for number in range(count)]
    # imports, connections and what a broker writes to disk for a new one are not what is measured, nor is the one
    # collection that looks through all that was imported
    submit([f"{prefix}-first"])
    gc.collect()
    gc.freeze()
    time.sleep(0.5)
    for first in range(0, count, size):
        part = keys[first : first + size]
        note(".submitted", part)
        submit(part)
        time.sleep(pause_s)
