"""The HTTP clients of one event loop."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from backends.tinkex.errors import BACKEND, ClientClosed
from backends.tinkex.settings import Endpoint
from crucible.http.bounded_responses import bounded_responses
from crucible.http.decompression import ACCEPT_ENCODING
from crucible.http.new_connections import NewConnections

if TYPE_CHECKING:
    import httpx

_STREAMS_PER_CLIENT: Final = 64
_CONNECTIONS_PER_CLIENT: Final = 8
"""httpx scans every connection of a pool per request, with system calls for the idle ones: with 20 runs in one
process, pools of 64 connections cost more time than everything else."""
_KEEPALIVE_S: Final = 4.0
"""Shorter than the keep-alive of servers (uvicorn: 5 s), so that a request seldom meets a closing connection."""


class ClientPool:
    """A pool of HTTP clients that grows when all of them are busy.

    HTTP/2 limits the streams of a connection, and long polls occupy them; over HTTP/1.1 a client scans all of its
    connections for each request.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._http2 = endpoint.base_url.startswith("https:")
        self._per_client = _STREAMS_PER_CLIENT if self._http2 else _CONNECTIONS_PER_CLIENT
        # The environment's proxies cannot reach this machine's loopback addresses.
        self._trust_env = not endpoint.is_local
        self._tls: ssl.SSLContext | None = None
        self._clients: list[httpx.AsyncClient] = []
        self._busy: list[int] = []
        self._unpooled: httpx.AsyncClient | None = None
        self._external: httpx.AsyncClient | None = None
        self._new_connections = NewConnections()

    @property
    def closed(self) -> bool:
        """The pool is closed for good: a request that is under way fails, and is not to be sent again."""
        return self._new_connections.closed

    @contextlib.contextmanager
    def lease(self, *, fresh: bool = False) -> "Iterator[httpx.AsyncClient]":
        """Provide a client for one request.

        With ``fresh``, the request uses a new connection: the server may close an idle one at the moment of
        sending, and then it is unknown whether the request arrived.

        Raises:
            ClientClosed: the pool is closed.
        """
        self._check_open()
        if fresh:
            if self._unpooled is None:
                self._unpooled = self._new_client(keepalive_connections=0)
            yield self._unpooled
            return
        index = self._free_index()
        self._busy[index] += 1
        try:
            yield self._clients[index]
        finally:
            self._busy[index] -= 1

    def lease_for(self, url: str) -> "contextlib.AbstractContextManager[httpx.AsyncClient]":
        """Provide a client for a URL that may belong to another server. Raises as ``lease``."""
        self._check_open()
        if self._http2 or not url.startswith("https:"):
            return self.lease()
        if self._external is None:
            import httpx

            self._external = httpx.AsyncClient(trust_env=self._trust_env, **self._arguments())
        return contextlib.nullcontext(self._external)

    async def aclose(self) -> None:
        """Close all clients, and the connections that they are still making."""
        self._new_connections.close()
        for client in (*self._clients, self._unpooled, self._external):
            if client is not None:
                await client.aclose()

    def _check_open(self) -> None:
        if self.closed:
            raise ClientClosed("the client is closed: nothing more is sent; make a new one", backend=BACKEND)

    def _free_index(self) -> int:
        for index, busy in enumerate(self._busy):
            if busy < self._per_client:
                return index
        keepalive_connections = None if self._http2 else _CONNECTIONS_PER_CLIENT
        self._clients.append(self._new_client(keepalive_connections=keepalive_connections))
        self._busy.append(0)
        return len(self._busy) - 1

    def _new_client(self, *, keepalive_connections: int | None) -> "httpx.AsyncClient":
        import httpx

        if self._tls is None:
            # Loading the certificate authorities is slow. Plain HTTP needs none, and a context without authorities
            # rejects every certificate.
            self._tls = httpx.create_ssl_context() if self._http2 else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=keepalive_connections,
            keepalive_expiry=_KEEPALIVE_S,
        )
        return httpx.AsyncClient(
            http2=self._http2,
            limits=limits,
            trust_env=self._trust_env,
            verify=self._tls,
            **self._arguments(),
        )

    def _arguments(self) -> dict[str, Any]:
        """The clients' arguments for bodies that are decompressed in blocks, whose total size the reader limits,
        and for connections that are closed when their request is cancelled or the pool is closed."""
        headers = {"User-Agent": "nsai-work-tinkex", "Accept-Encoding": ACCEPT_ENCODING}
        return {
            "headers": headers,
            "event_hooks": {"request": [self._new_connections.watch], "response": [bounded_responses(None)]},
        }
