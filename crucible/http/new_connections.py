"""The connections that a client of ``httpx``, or of its successor, is making."""

from typing import Any


class NewConnections:
    """Closes the connections that a client makes and then forgets.

    The library forgets one whose request is cancelled in the TLS handshake, and one that is made while the client
    is closed. A client takes part with ``AsyncClient(event_hooks={"request": [new_connections.watch]})``, and calls
    ``close`` before it is closed itself.
    """

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Close every connection as soon as it is made."""
        self.closed = True

    async def watch(self, request: Any) -> None:
        """A request hook: observe the connection that the request makes, if it does.

        https://www.python-httpx.org/advanced/extensions/#trace
        """
        request.extensions.setdefault("trace", _Connecting(self, request.url.scheme == "https").observe)


class _Connecting:
    """The connection that a request makes."""

    def __init__(self, connections: NewConnections, secure: bool) -> None:
        self._connections = connections
        self._made = ".start_tls.complete" if secure else ".connect_tcp.complete"
        self._stream: Any = None

    async def observe(self, event: str, info: dict[str, Any]) -> None:
        """Receive an event of the library, such as ``connection.connect_tcp.complete``."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._stream = info["return_value"]
            if self._connections.closed and event.endswith(self._made):
                # the request fails then, as on a connection that breaks
                await self._stream.aclose()
        elif event.endswith(".start_tls.failed") and self._stream is not None:
            await self._stream.aclose()
