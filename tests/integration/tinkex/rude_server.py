"""A tiny real HTTP server that says what it was told to say, word for word."""

import json
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Said:
    """One answer. ``announced`` is the length in its header when that is not the true one."""

    body: bytes = b"{}"
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None

    def on_wire(self) -> bytes:
        """The bytes of the answer."""
        size = len(self.body) if self.announced is None else self.announced
        lines = [f"HTTP/1.1 {self.status} X", f"content-length: {size}", f"content-type: {self.content_type}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "connection: close", "", ""]).encode() + self.body


def said(value: Any, status: int = 200, **headers: str) -> Said:
    """An answer in JSON."""
    return Said(json.dumps(value).encode(), status, headers={k.replace("_", "-"): v for k, v in headers.items()})


@dataclass(frozen=True)
class Heard:
    """One request."""

    route: str
    headers: dict[str, str]
    body: bytes


Reply = Said | bytes | None | Callable[[Heard], Said]
"""Bytes are sent raw; None closes the connection without a word."""

DEFAULTS: dict[str, Reply] = {
    "client/config": said({}),
    "create_session": said({"session_id": "s"}),
    "session_heartbeat": said({}),
    "create_model": said({"request_id": "make"}),
    "get_server_capabilities": said({"supported_models": [{"model_name": "m"}]}),
}


class RudeServer:
    """Answers route by route from lists that end in repeating their last; the defaults make a model."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._scripts: dict[str, list[Reply]] = defaultdict(list)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.futures: dict[str, list[Reply]] = {"make": [said({"model_id": "run"})]}
        """What ``retrieve_future`` says, by request id."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def script(self, route: str, *replies: Reply) -> None:
        """What to say on a route, in order."""
        self._scripts[route] = list(replies)

    def bodies(self, route: str) -> list[Any]:
        """The JSON bodies heard on a route."""
        return self.bodies_of([one for one in self.heard if one.route == route])

    def bodies_of(self, heard: list[Heard]) -> list[Any]:
        """Their JSON bodies."""
        return [json.loads(one.body) for one in heard]

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
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
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
            heard = Heard(route, headers, body)
            self.heard.append(heard)
            reply = self._reply(heard)
            if callable(reply):
                reply = reply(heard)
            if reply is not None:
                connection.sendall(reply if isinstance(reply, bytes) else reply.on_wire())

    def _reply(self, heard: Heard) -> Reply:
        script = self._scripts.get(heard.route)
        if heard.route == "retrieve_future" and not script:
            script = self.futures.get(json.loads(heard.body)["request_id"], [said({"detail": "Not Found"}, 404)])
        if not script:
            return DEFAULTS.get(heard.route, said({"detail": "Not Found"}, 404))
        return script.pop(0) if len(script) > 1 else script[0]
