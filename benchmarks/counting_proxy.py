"""A proxy of a PostgreSQL server that counts the statements of a client."""

import socket
import threading
from contextlib import suppress
from typing import Final, Self

FRAMING: Final = (b"BEGIN", b"COMMIT", b"ROLLBACK")
SIZE: Final = 65_536


class CountingProxy:
    """Listens on a port of loopback, and passes everything on. ``statements`` counts those that were executed,
    ``transactions`` the BEGIN, COMMIT and ROLLBACK among the others."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.statements = 0
        self.transactions = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(client, server, Messages(self)), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, None), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, messages: "Messages | None") -> None:
        with suppress(OSError):
            while data := source.recv(SIZE):
                if messages is not None:
                    messages.feed(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class Messages:
    """The messages of one connection's client, in the frontend protocol: a type, a length, a body. Only the first
    messages, of the start of a connection, have no type."""

    def __init__(self, counts: CountingProxy) -> None:
        self._counts = counts
        self._buffer = b""
        self._started = False
        self._parsed = b""

    def feed(self, data: bytes) -> None:
        """Count the messages that are complete now."""
        self._buffer += data
        while True:
            head = 1 if self._started else 0
            if len(self._buffer) < head + 4:
                return
            length = head + int.from_bytes(self._buffer[head : head + 4])
            if len(self._buffer) < length:
                return
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if not self._started:
                # a request for TLS or GSS comes before the start itself, which has the protocol's version 3
                self._started = message[4:6] == b"\x00\x03"
            else:
                self._count(message[:1], message[5:])

    def _count(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            self._parsed = body.partition(b"\x00")[2]
        elif kind == b"Q":
            self._executed(body)
        elif kind == b"E":
            self._executed(self._parsed)
            self._parsed = b""

    def _executed(self, statement: bytes) -> None:
        if statement.lstrip().upper().startswith(FRAMING):
            self._counts.transactions += 1
        else:
            self._counts.statements += 1
