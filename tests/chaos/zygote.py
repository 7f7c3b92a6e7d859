"""Forks worker processes from one that has everything imported, so that a new one takes milliseconds.

Each line on stdin names a log file; the answer is the process id of a worker that writes to it. The workers are
real processes with nothing shared: what a fork would share is made after it.
"""

import importlib
import os
import signal
import sys

IMPORTED = ("backends.tinkex", "nsai_work.training.driver", "nsai_work.worker.service")


def main() -> None:
    """Serve until stdin ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    # the kernel reaps the dead, so that none of them looks alive
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            _work(line.strip())
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _work(log: str) -> None:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from nsai_work.settings import Settings
        from nsai_work.worker.service import run_worker

        run_worker(Settings())
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
