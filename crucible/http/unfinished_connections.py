"""Connections whose TLS handshake does not finish are closed, for clients of ``httpx`` and of its successor."""

from typing import Any


async def close_unfinished(request: Any) -> None:
    """A request hook: ``AsyncClient(event_hooks={"request": [close_unfinished]})``.

    Without it, a request that is cancelled during the handshake leaves its socket open: the library closes it for
    errors alone. https://www.python-httpx.org/advanced/extensions/#trace
    """
    if request.url.scheme == "https":
        request.extensions.setdefault("trace", _Connecting().observe)


class _Connecting:
    """The connection that a request makes."""

    def __init__(self) -> None:
        self._stream: Any = None

    async def observe(self, event: str, info: dict[str, Any]) -> None:
        """Receive an event of the library, such as ``connection.connect_tcp.complete``."""
        if event.endswith(".connect_tcp.complete"):
            self._stream = info["return_value"]
        elif event.endswith(".start_tls.complete"):
            self._stream = None
        elif event.endswith(".start_tls.failed") and self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.aclose()
