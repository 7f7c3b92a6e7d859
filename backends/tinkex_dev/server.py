"""Starting and stopping the server: in a thread of this process, or as a process of its own."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backends.tinkex_dev.clock import Clock
from backends.tinkex_dev.occupancy import occupied
from backends.tinkex_dev.options import Options
from backends.tinkex_dev.remote_control import RemoteControl

DEV_KEY = "tml-dev"


class DevServer(RemoteControl):
    """A server in a thread of this process, on a port of its own choosing unless told one.

    Entering the context starts it and waits until it listens; leaving stops it. What is on disk stays, so a
    second server on the same folder goes on where the first one stopped.
    """

    def __init__(self, state_dir: Path, *, clock: Clock | None = None, **options: Any) -> None:
        self.options = Options(state_dir=Path(state_dir), **options)
        self.clock = clock or Clock()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        if self._url is None:
            raise RuntimeError("the server has not been started")
        return self._url

    def start(self) -> Self:
        """Start, and return when it listens.

        Raises:
            OSError: the port cannot be had.
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
        """Stop, and return when the thread has ended and the port is free. Open calls are cut."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _main(self) -> None:
        try:
            asyncio.run(self.serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def serve(self) -> None:
        """Serve on this event loop until :meth:`stop` is called from elsewhere."""
        from backends.tinkex_dev.listener import serving

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        options = self.options
        with occupied(options.state_dir), _listening(options.host, options.port) as listening:
            host, port = listening.getsockname()[:2]
            self._url = f"http://{host}:{port}"
            async with serving(options, self.clock, listening):
                self._ready.set()
                await self._stop.wait()


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket. That it is TCP is said outright: asyncio sends small answers at once only then."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


class DevProcess(RemoteControl):
    """A server in a process of its own, as a context: what dies with it is really gone."""

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
        """Where it listens, without a path."""
        return self._url

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start, and return when it listens."""
        self._process = subprocess.Popen(  # noqa: S603
            self._command, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the development server did not start: exit status {self._process.wait()}")
        self._url = json.loads(line)["url"]
        return self

    def stop(self) -> None:
        """Ask it to stop, and wait for it."""
        if self._process is not None:
            self._process.terminate()
            self._end()

    def kill(self) -> None:
        """End it at once, as a machine that loses power."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait()
        self._process.stdout.close()
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
