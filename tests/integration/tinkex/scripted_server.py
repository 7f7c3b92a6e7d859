"""A minimal HTTP server with scripted responses, byte for byte."""

import json
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Response:
    """A response. ``announced`` is the length in its header if it differs from the real length."""

    body: bytes = b"{}"
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None

    def on_wire(self) -> bytes:
        """The bytes of the response."""
        size = len(self.body) if self.announced is None else self.announced
        lines = [f"HTTP/1.1 {self.status} X", f"content-length: {size}", f"content-type: {self.content_type}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "connection: close", "", ""]).encode() + self.body


def json_response(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON response."""
    return Response(
        json.dumps(value).encode(), status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


@dataclass(frozen=True)
class Received:
    """A received request."""

    route: str
    headers: dict[str, str]
    body: bytes


Reply = Response | bytes | None | Callable[[Received], Response]
"""Bytes are sent raw; None closes the connection without a response."""

DEFAULTS: dict[str, Reply] = {
    "client/config": json_response({}),
    "create_session": json_response({"session_id": "s"}),
    "session_heartbeat": json_response({}),
    "create_model": json_response({"request_id": "make"}),
    "get_server_capabilities": json_response({"supported_models": [{"model_name": "m"}]}),
}


class ScriptedServer:
    """Responds per route from a list whose last entry repeats. The defaults create a model."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._scripts: dict[str, list[Reply]] = defaultdict(list)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.futures: dict[str, list[Reply]] = {"make": [json_response({"model_id": "run"})]}
        """The responses of ``retrieve_future`` by request id."""

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def script(self, route: str, *replies: Reply) -> None:
        """Set the responses of a route, in order."""
        self._scripts[route] = list(replies)

    def bodies(self, route: str) -> list[Any]:
        """The JSON bodies received on a route."""
        return self.bodies_of([request for request in self.received if request.route == route])

    def bodies_of(self, requests: list[Received]) -> list[Any]:
        """The JSON bodies of requests."""
        return [json.loads(request.body) for request in requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            line = stream.readline().decode().split()
            if len(line) < 2:
                return
            headers = {}
            while (header := stream.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", "0")))
            route = line[1].partition("?")[0].removeprefix("/api/v1/")
            received = Received(route, headers, body)
            self.received.append(received)
            reply = self._reply(received)
            if callable(reply):
                reply = reply(received)
            if reply is not None:
                connection.sendall(reply if isinstance(reply, bytes) else reply.on_wire())

    def _reply(self, received: Received) -> Reply:
        script = self._scripts.get(received.route)
        if received.route == "retrieve_future" and not script:
            script = self.futures.get(
                json.loads(received.body)["request_id"], [json_response({"detail": "Not Found"}, 404)]
            )
        if not script:
            return DEFAULTS.get(received.route, json_response({"detail": "Not Found"}, 404))
        return script.pop(0) if len(script) > 1 else script[0]
