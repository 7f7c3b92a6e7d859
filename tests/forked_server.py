"""A development server in a child process, forked from a process that has imported it already."""

import os
import subprocess
import sys

from backends.tinkex_dev.server import DevProcess
from tests.zygote import CliProcess


class ForkedServer(DevProcess):
    """A ``DevProcess`` that runs the same command, and starts without the imports."""

    def _spawned(self) -> "subprocess.Popen[str]":
        arguments = self._command[self._command.index("--state") :]
        environment = os.environ if self._environment is None else self._environment
        return CliProcess(
            ["dev-server", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sys.__stderr__,
            text=True,
        )
