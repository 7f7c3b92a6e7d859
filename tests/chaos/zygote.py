"""A process that forks workers after its imports, so that a worker starts within milliseconds.

Each line on stdin is the path of a log file; the response is the process id of a worker that logs to it. The
workers share nothing: all connections are opened after the fork.
"""

import importlib
import os
import signal
import sys

PRELOADED_MODULES = ("backends.tinkex", "nsai_work.training.driver", "nsai_work.worker.service")


def main() -> None:
    """Serve until stdin ends."""
    for name in PRELOADED_MODULES:
        importlib.import_module(name)
    # the kernel reaps the workers: a zombie process would count as alive
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
