"""HTTP to one server: connection pools per event loop, retries, and responses of bounded size.

A retry sends the same bytes under the same idempotency key. A final error response is returned as an
``HttpResponse`` too: the caller knows which resource it addressed and translates the error.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from backends.tinkex.errors import BACKEND, ErrorResponse, Resource, error_from_response
from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.body import JSON, EncodedBody
from backends.tinkex.wire.client_pool import ClientPool
from backends.tinkex.wire.retry import RetryConfig, is_retryable
from crucible.errors import AnswerLost, BackendUnavailable, CrucibleError, MalformedAnswer, RequestTimeout
from crucible.http.decompression import InvalidBody
from crucible.http.retry_after import retry_after_ms
from crucible.http.spans import request_span
from crucible.runtime.forks import reset_after_fork
from crucible.runtime.waits import Wait, WaitCause, waiting

if TYPE_CHECKING:
    import httpx

_MAX_TRUNCATED: Final = 3
_NOT_PROCESSED: Final = frozenset({408, 425, 429, 503})
_AT_LIMIT: Final = 429
_UNANSWERED_S: Final = 2.0
"""The time after which a missing response is reported as a wait."""
_DOWNLOAD_BLOCK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one attempt. A response over ``max_response_bytes`` is a MalformedAnswer."""

    max_response_bytes: int = 512 * 1024 * 1024
    connect_timeout_s: float = 15.0
    read_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. ``path`` starts with a slash and is relative to the server's address."""

    method: str
    path: str
    body: EncodedBody | None = None
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    read_timeout_s: float | None = None
    retries: bool = True
    repeatable: bool = True
    """False for a request that would take effect twice: it is not sent again once it may have arrived."""
    waits_for_capacity: bool = True
    """429 is retried; otherwise it is returned at once, for callers that wait elsewhere."""
    held: bool = False
    """The server may hold the response back, as in a long poll: its absence is then no sign of trouble."""

    @property
    def route(self) -> str:
        """The path without the API prefix, for messages."""
        return self.path.removeprefix("/api/v1/")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    request_id: str
    """The server's id of the request, or the id under which it was sent."""

    @property
    def ok(self) -> bool:
        """The status is 2xx."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class HttpTransport:
    """The HTTP connections to one server. Usable from several event loops; each has its own connections."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        retry: RetryConfig | None = None,
        limits: HttpLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.retry = retry or RetryConfig()
        self.limits = limits or HttpLimits()
        self.clock = clock
        self.sleep = sleep
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, ClientPool] = WeakKeyDictionary()

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request, with retries, until its response is final or the retry time has passed.

        Raises:
            BackendUnavailable: the connection failed in every attempt.
            RequestTimeout: no response came in time in any attempt.
            MalformedAnswer: the response was too large, or repeatedly truncated.
            AnswerLost: the request is not ``repeatable``, and it is unknown whether it arrived.
            ClientClosed: the transport is closed.
        """
        request_id = str(uuid.uuid4())
        try:
            with waiting() as wait:
                return await self._send_with_retries(request, request_id, wait)
        except CrucibleError as error:
            error.request_id = error.request_id or request_id
            raise

    async def _send_with_retries(self, request: HttpRequest, request_id: str, wait: Wait) -> HttpResponse:
        headers = self._headers(request, request_id)
        started_at = self.clock()
        attempt = truncated = status_500 = 0
        while True:
            failure: HttpResponse | BackendUnavailable | RequestTimeout | MalformedAnswer
            try:
                with (
                    self._watched(request, wait),
                    request_span(request.method, self.url(request.path), headers, resends=attempt) as span,
                ):
                    response = await self._send_once(request, headers)
                    span.end(response.status)
                if not request.retries or not is_retryable(response.status):
                    return response
                if response.status == _AT_LIMIT and not request.waits_for_capacity:
                    return response
                if not request.repeatable and response.status not in _NOT_PROCESSED:
                    raise _lost(request, f"the server answered {response.status}")
                status_500 += response.status == 500
                if status_500 >= self.retry.attempts_at_500:
                    return response
                failure = response
            except _Truncated as error:
                truncated += 1
                failure = MalformedAnswer(f"{request.route}: {error}", backend=BACKEND, details={"cut_short": True})
                if not request.repeatable:
                    raise _lost(request, "the response was truncated") from error
                if truncated >= _MAX_TRUNCATED or not request.retries:
                    raise failure from error
            except (BackendUnavailable, RequestTimeout) as error:
                if not request.repeatable and not error.details.get("never_sent"):
                    raise _lost(request, error.message) from error
                if not request.retries or self._pool().closed:
                    raise
                failure = error
            requested_ms = retry_after_ms(failure.headers) if isinstance(failure, HttpResponse) else None
            delay = self.retry.delay_s(attempt, requested_ms)
            if self.clock() - started_at + delay > self.retry.give_up_after_s:
                if isinstance(failure, HttpResponse):
                    return failure
                raise failure
            attempt += 1
            wait.because(self._reason(request, failure), _cause(failure))
            await self.sleep(delay)

    def _reason(self, request: HttpRequest, failure: HttpResponse | CrucibleError) -> str:
        if isinstance(failure, CrucibleError):
            return f"{failure.message} ({self.endpoint.base_url})"
        response = ErrorResponse(failure.status, request.route, failure.content, Resource.SERVICE, failure.headers)
        return f"{error_from_response(response).message} ({self.endpoint.base_url})"

    @contextlib.contextmanager
    def _watched(self, request: HttpRequest, wait: Wait) -> Iterator[None]:
        """Report a response that does not come."""
        if request.held:
            yield
            return
        reason = f"{request.route}: no response yet from {self.endpoint.base_url}"
        timer = asyncio.get_running_loop().call_later(_UNANSWERED_S, wait.because, reason, WaitCause.AWAY)
        try:
            yield
        finally:
            timer.cancel()

    async def download(
        self, url: str, *, authenticated: bool, on_length: Callable[[int], None] | None = None
    ) -> AsyncIterator[bytes]:
        """Stream a file. The API key is sent only with ``authenticated``.

        ``on_length`` is called with the length that the server declares, if it does.

        Raises:
            BackendUnavailable: the connection or the server failed.
            NotFound, AuthenticationFailed and others: according to the error response.
        """
        import httpx

        headers = self.endpoint.headers() if authenticated else {}
        with self._pool().lease_for(url) as client, _complete("download"), _translated("download"):
            async with client.stream(
                "GET", url, headers=headers, timeout=self._timeout(None), follow_redirects=False
            ) as response:
                if response.status_code != httpx.codes.OK:
                    content = await self._read(response, "download")
                    raise error_from_response(
                        ErrorResponse(response.status_code, "download", content, Resource.RECORD, response.headers)
                    )
                length = response.headers.get("content-length", "")
                if on_length is not None and length.isascii() and length.isdigit():
                    on_length(int(length))
                async for block in response.aiter_bytes(_DOWNLOAD_BLOCK_BYTES):
                    yield block

    async def aclose(self) -> None:
        """Close the connections of the running event loop, for good. Requests under way fail.

        What still polls or repeats in the background would otherwise make connections that nobody closes.
        """
        await self._pool().aclose()

    def url(self, path: str) -> str:
        """Return the full URL of a path."""
        return self.endpoint.base_url + path

    def _headers(self, request: HttpRequest, request_id: str) -> dict[str, str]:
        headers = {
            "Accept": request.accept,
            **self.endpoint.headers(),
            "X-Request-Id": request_id,
            **request.headers,
        }
        if request.method == "POST":
            headers.setdefault("X-Idempotency-Key", request_id)
        if request.body is not None:
            headers["Content-Type"] = request.body.media_type
            headers["Content-Length"] = str(request.body.size)
            if request.body.encoding:
                headers["Content-Encoding"] = request.body.encoding
        return headers

    async def _send_once(self, request: HttpRequest, headers: Mapping[str, str]) -> HttpResponse:
        body = None if request.body is None else _stream(request.body)
        with self._pool().lease(fresh=not request.repeatable) as client, _translated(request.route):
            async with client.stream(
                request.method,
                self.url(request.path),
                params={key: value for key, value in request.params.items() if value is not None} or None,
                headers=dict(headers),
                content=body,
                timeout=self._timeout(request.read_timeout_s),
                follow_redirects=False,
            ) as response:
                content = await self._read(response, request.route)
                request_id = response.headers.get("x-request-id") or headers["X-Request-Id"]
                return HttpResponse(response.status_code, response.headers, content, request_id)

    def _timeout(self, read_s: float | None) -> "httpx.Timeout":
        import httpx

        return httpx.Timeout(read_s or self.limits.read_timeout_s, connect=self.limits.connect_timeout_s, pool=None)

    async def _read(self, response: "httpx.Response", route: str) -> bytes:
        blocks: list[bytes] = []
        size = 0
        async for block in response.aiter_bytes():
            size += len(block)
            if size > self.limits.max_response_bytes:
                raise MalformedAnswer(
                    f"{route}: the response is larger than {self.limits.max_response_bytes} bytes", backend=BACKEND
                )
            blocks.append(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _pool(self) -> ClientPool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = ClientPool(self.endpoint)
        return pool


class _Truncated(Exception):
    """The connection ended inside a response."""


@contextlib.contextmanager
def _complete(route: str) -> Iterator[None]:
    """Report a truncated download as an interrupted connection."""
    try:
        yield
    except _Truncated as error:
        raise BackendUnavailable(f"{route}: {error}", backend=BACKEND) from error


@contextlib.contextmanager
def _translated(route: str) -> Iterator[None]:
    """Translate httpx errors: the only place that does."""
    import httpx

    try:
        yield
    except InvalidBody as error:
        raise MalformedAnswer(f"{route}: {error}", backend=BACKEND) from error
    except httpx.RemoteProtocolError as error:
        if "incomplete" in str(error) or "without sending complete" in str(error):
            raise _Truncated("the response was truncated") from error
        raise BackendUnavailable(f"{route}: the connection broke: {error}", backend=BACKEND) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise BackendUnavailable(
            f"{route}: no connection to the server ({type(error).__name__}: {error})",
            backend=BACKEND,
            details={"never_sent": True},
        ) from error
    except httpx.TimeoutException as error:
        raise RequestTimeout(f"{route}: no response in time ({type(error).__name__})", backend=BACKEND) from error
    except httpx.TransportError as error:
        raise BackendUnavailable(
            f"{route}: the server cannot be reached ({type(error).__name__}: {error})", backend=BACKEND
        ) from error


def _cause(failure: HttpResponse | CrucibleError) -> WaitCause:
    if isinstance(failure, CrucibleError):
        return WaitCause.of(failure)
    return WaitCause.LIMIT if failure.status == _AT_LIMIT else WaitCause.AWAY


def _lost(request: HttpRequest, reason: str) -> AnswerLost:
    return AnswerLost(
        f"{request.route}: {reason}; it is unknown whether the request took effect, "
        "and this server would run it again",
        backend=BACKEND,
        details={"route": request.route},
    )


async def _stream(body: EncodedBody) -> AsyncIterator[bytes]:
    for block in body.blocks():
        yield block
