"""Records of a subject: a line ``key time`` for each submit of a job, and for each run of its body."""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence


def record(event: str, keys: Sequence[str]) -> None:
    """Append a line for each key; lines of several processes do not mix."""
    now = time.time()
    file = os.open(os.environ["BENCH_OUT"] + event, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, "".join(f"{key} {now:.6f}\n" for key in keys).encode())
    os.close(file)


def body(key: str) -> None:
    """The body of a job: records that it ran."""
    record(".ran", [key])


def main(work: Callable[[], None], submit: Callable[[Sequence[str]], None], *, bulk: bool) -> None:
    """Run a subject: ``SUBJECT work``, or ``SUBJECT submit PREFIX COUNT PAUSE_S``.

    A ``bulk`` subject has a call for many jobs, which is used with 100 jobs when there is no pause.
    """
    if sys.argv[1] == "work":
        work()
        return
    prefix, count, pause_s = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    size = 100 if bulk and not pause_s else 1
    keys = [f"{prefix}{number}" for number in range(count)]
    # imports, new connections and the first full garbage collection are not measured
    submit([f"{prefix}-first"])
    gc.collect()
    gc.freeze()
    time.sleep(0.5)
    for first in range(0, count, size):
        part = keys[first : first + size]
        record(".submitted", part)
        submit(part)
        time.sleep(pause_s)
