"""The HTTP transport of LiteLLM's clients: answers are bounded, and those in OpenAI's form are kept as they came.

LiteLLM drops parts of answers that it does not know, from refusals to finish reasons, and decompresses without a
limit. This transport hands a good answer of a server with OpenAI's API to the backend, and a stand-in to LiteLLM.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from crucible.http.bounded_responses import bounded_responses
from crucible.http.decompression import ACCEPT_ENCODING, InvalidBody
from crucible.http.new_connections import NewConnections

_PATH: Final = "/chat/completions"
_WHOLE: Final = (
    b'{"id": "", "object": "chat.completion", "created": 0, "model": "", "choices": [{"index": 0, "finish_reason":'
    b' "stop", "message": {"role": "assistant", "content": ""}}],'
    b' "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}'
)
_STREAM: Final = b"data: [DONE]\n\n"


@dataclass
class Exchange:
    """A call of LiteLLM: the size limit of its answer, and the answer's bytes if they were kept.

    With ``keeps``, a good answer in OpenAI's form is kept: whole as ``content``, a stream as the open ``response``.
    A body that could not be decoded is ``error``.
    """

    limit: int
    keeps: bool
    streams: bool = False
    content: bytes | None = None
    response: Any = None
    error: InvalidBody | None = None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this the exchange of all requests inside."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the kept stream, decompressed."""
        async for block in self.response.stream:
            yield block

    async def close(self) -> None:
        """Close the kept stream."""
        response, self.response = self.response, None
        if response is not None:
            await response.stream.aclose()

    async def keep(self, response: Any) -> bytes:
        """Keep a good answer. Returns the stand-in for LiteLLM."""
        if self.streams:
            await self.close()
            self.response = response
            return _STREAM
        self.content = self.error = None
        try:
            self.content = b"".join([block async for block in response.stream])
        except InvalidBody as error:
            self.error = error
        finally:
            await response.stream.aclose()
        return _WHOLE


_current: ContextVar[Exchange | None] = ContextVar("litellm_exchange", default=None)


@cache
def install_transport() -> None:
    """Have all clients that LiteLLM creates from now on use this transport, with and without a proxy."""
    from litellm.llms.custom_httpx import http_handler

    transport = _transport_class(http_handler.AsyncHTTPTransport)

    def create(ssl_context: Any = None, ssl_verify: bool | None = None, shared_session: Any = None) -> Any:
        del shared_session
        own = http_handler.AsyncHTTPHandler._create_httpx_transport()
        verify = ssl_context if ssl_context is not None else True if ssl_verify is None else ssl_verify
        return transport(verify=verify) if own is None else own

    # proxies and IPv4 alone: LiteLLM creates those transports itself, by this name
    http_handler.AsyncHTTPTransport = transport
    http_handler.AsyncHTTPHandler.create_async_transport = staticmethod(create)


def _transport_class(base: Any) -> Any:
    import httpx

    class KeepingTransport(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._new_connections = NewConnections()

        async def aclose(self) -> None:
            self._new_connections.close()
            await super().aclose()

        async def handle_async_request(self, request: Any) -> Any:
            exchange = _current.get()
            if exchange is None:
                return await super().handle_async_request(request)
            request.headers["Accept-Encoding"] = ACCEPT_ENCODING
            await self._new_connections.watch(request)
            response = await super().handle_async_request(request)
            await bounded_responses(exchange.limit)(response)
            if not exchange.keeps or response.status_code != 200 or not request.url.path.endswith(_PATH):
                return response
            media_type = "text/event-stream" if exchange.streams else "application/json"
            return httpx.Response(200, headers={"content-type": media_type}, content=await exchange.keep(response))

    return KeepingTransport
