"""The HTTP server of a worker, for health checks and metrics: outside of the event loop that it judges.

It answers GET and HEAD of a few routes, in threads of its own. Connections are bounded in number and in time, and
each serves one request.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from crucible.errors import InvalidRequest
from crucible.runtime.monotonic import monotonic
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

MAX_CONNECTIONS: Final = 32
MAX_SILENCE_S: Final = 5.0
MAX_CONNECTION_S: Final = 20.0
CHECK_INTERVAL_S: Final = 0.2
MAX_TARGET: Final = 2_000
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str = "--http") -> "Address":
        """Parse ``HOST:PORT``, ``[IPV6]:PORT`` or ``PORT``, which is on loopback, of this option.

        Raises:
            InvalidRequest: it has another form.
        """
        host, _, port = text.rpartition(":")
        host = host or "127.0.0.1"
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        plain = host.isascii() and host.isprintable() and " " not in host and (bracketed or ":" not in host)
        if not (port.isascii() and port.isdigit() and int(port) < 65536 and plain):
            raise InvalidRequest.of(option, text, "give HOST:PORT, as 127.0.0.1:9200, or a port on loopback")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer to a request."""

    status: HTTPStatus
    body: str
    content_type: str = TEXT


Route = Callable[[], ProbeResult]


@contextmanager
def probe_server(address: Address, routes: Mapping[str, Route]) -> Iterator[str]:
    """Serve these routes, by path, while the context is open. Yields the server's URL.

    Raises:
        InvalidRequest: the address cannot be listened on.
    """
    try:
        server = _ProbeServer(address, routes)
    except (OSError, UnicodeError) as error:
        # with uvicorn, which a worker does not need
        from nsai_work.asgi_server import why_unbound

        raise InvalidRequest.of("--http", f"{address.host}:{address.port}", why_unbound(error)) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(CHECK_INTERVAL_S,), name="nsai-work http", daemon=True
    )
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _ProbeServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS
    # a port in use is an error, also on systems where this would let two processes share it
    allow_reuse_port = False

    def __init__(self, address: Address, routes: Mapping[str, Route]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.routes = routes
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((address.host, address.port), _ProbeHandler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        shown = f"[{host!s}]" if self.address_family == socket.AF_INET6 else host
        return f"http://{shown!s}:{port}"

    def server_bind(self) -> None:
        # without the base class's look-up of the host's name, which may take seconds
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                return False
            self._open[request] = monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that take too long, however they drip."""
        now = monotonic()
        with self._lock:
            late = [request for request, since in self._open.items() if now - since > MAX_CONNECTION_S]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("http.connection_failed", error=type(sys.exception()).__name__)


class _ProbeHandler(BaseHTTPRequestHandler):
    server: _ProbeServer
    timeout = MAX_SILENCE_S
    protocol_version = "HTTP/1.0"  # a connection serves one request
    server_version = "nsai-work"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = TEXT

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        if route is None or len(self.path) > MAX_TARGET:
            known = ", ".join(sorted(self.server.routes))
            self._write(ProbeResult(HTTPStatus.NOT_FOUND, f"not found; there are {known}\n"))
            return
        try:
            answer = route()
        except Exception:
            log.exception("http.failed", path=path)
            answer = ProbeResult(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the log of the worker has the reason\n"
            )
        self._write(answer)

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        self._write(ProbeResult(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n"), Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_CONNECT = do_TRACE = _refuse  # noqa: N815

    def _write(self, answer: ProbeResult, **headers: str) -> None:
        body = answer.body.encode()
        self.send_response(answer.status)
        fixed = {"Content-Type": answer.content_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in {**fixed, "X-Content-Type-Options": "nosniff", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        # a probe each second is no news, and its text is a stranger's
        return
