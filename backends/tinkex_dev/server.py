"""The server as a context manager: in a thread of this process, or in a child process."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from abc import abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.options import ServerOptions
from backends.tinkex_dev.remote_control import RemoteControl
from backends.tinkex_dev.storage.lock import locked_folder

DEV_KEY = "tml-dev"


class _StartedServer(RemoteControl):
    """A server that runs while the context is open."""

    @abstractmethod
    def start(self) -> Self:
        """Start, and return once it listens."""

    @abstractmethod
    def stop(self) -> None:
        """Stop, and return once it has stopped."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class DevServer(_StartedServer):
    """A server in a thread of this process, by default on a free port.

    Entering the context starts it and waits until it listens; leaving stops it. The state folder stays, so a
    second server on the same folder continues where the first one stopped. ``options``: see ``ServerOptions``.
    """

    def __init__(self, state_dir: Path | str, *, clock: ServerClock | None = None, **options: Any) -> None:
        self.options = ServerOptions(state_dir=Path(state_dir), **options)
        self.clock = clock or ServerClock()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """The base URL. Raises RuntimeError before the start."""
        if self._url is None:
            raise RuntimeError("the server has not been started")
        return self._url

    def start(self) -> Self:
        """Start, and return once it listens.

        Raises:
            OSError: the port cannot be bound.
            StateUnusable: the state folder cannot be written, or another live server uses it.
        """
        self._ready.clear()
        self._thread = threading.Thread(target=self._main, name="tinkex-dev", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Stop, and return once the thread has ended and the port is free. Open calls are aborted."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def _main(self) -> None:
        try:
            asyncio.run(self.serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def serve(self) -> None:
        """Serve on this event loop until :meth:`stop` is called from elsewhere."""
        from backends.tinkex_dev.http.listener import serving
        from nsai_work.asgi_server import bound_socket

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        options = self.options
        with locked_folder(options.state_dir), bound_socket(options.host, options.port) as listening:
            host, port = listening.getsockname()[:2]
            self._url = f"http://{host}:{port}"
            async with serving(options, self.clock, listening):
                self._ready.set()
                await self._stop.wait()


class DevProcess(_StartedServer):
    """A server in a child process, which tests can kill. ``arguments`` are those of the command."""

    def __init__(self, state_dir: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._command = [
            sys.executable,
            "-m",
            "backends.tinkex_dev",
            "--state",
            str(state_dir),
            "--json",
            *(() if "--port" in arguments else ("--port", "0")),
            *arguments,
        ]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL."""
        return self._url

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start, and return once it listens. Raises RuntimeError if the process exits instead."""
        self._process = self._spawned()
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the development server did not start: exit status {self._process.wait()}")
            self._url = json.loads(line)["url"]
        except BaseException:
            self.kill()
            raise
        return self

    def _spawned(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # noqa: S603
            self._command, stdout=subprocess.PIPE, text=True, env=self._environment
        )

    def stop(self) -> None:
        """Send SIGTERM, and wait until the process has exited."""
        if self._process is not None:
            self._process.terminate()
            self._end()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has exited."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait()
        self._process.stdout.close()
        self._process = None
