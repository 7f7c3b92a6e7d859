"""HTTP to one server: pools per event loop, retries of one request, answers of bounded size.

A retry sends the same bytes under the same idempotency key. What is a refusal for good comes back as an
``Answer`` too: the caller knows what was sought and names the error.
"""

import asyncio
import contextlib
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from backends.tinkex.errors import BACKEND, Refusal, Sought, error_of
from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.body import JSON, Body
from backends.tinkex.wire.retry import RetryConfig, is_retryable
from crucible.errors import AnswerLost, BackendUnavailable, CrucibleError, MalformedAnswer, RequestTimeout
from crucible.forks import reset_after_fork
from crucible.retry_after import retry_after_ms

if TYPE_CHECKING:
    import httpx

_STREAMS_PER_CLIENT: Final = 64
_CONNECTIONS_PER_CLIENT: Final = 8
"""A pool looks at every connection it has for each request, with system calls for the idle ones: with 20 runs in
one process, pools of 64 cost more time than all the rest."""
_KEPT_S: Final = 4.0
"""Shorter than servers keep idle connections (uvicorn: 5 s), so that a request seldom meets one that closes."""
_TRUNCATED_TRIES: Final = 3
_NOT_TAKEN: Final = frozenset({408, 425, 429, 503})


@dataclass(frozen=True, slots=True)
class Limits:
    """``answer_bytes`` bounds one answer; more is a MalformedAnswer. Timeouts are for one attempt."""

    answer_bytes: int = 512 * 1024 * 1024
    connect_timeout_s: float = 15.0
    read_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``path`` begins with a slash, below the server's address."""

    method: str
    path: str
    body: Body | None = None
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    read_timeout_s: float | None = None
    retries: bool = True
    repeatable: bool = True
    """False: were it run twice it would count twice, so what may have arrived is not sent again."""

    @property
    def route(self) -> str:
        """The last words of the path, for messages."""
        return self.path.removeprefix("/api/v1/")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    request_id: str
    """The server's own id of the request where it gave one, else the id under which it was sent."""

    @property
    def ok(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """Without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Transport:
    """All HTTP to one server. Usable from several event loops; each has its own connections."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        retry: RetryConfig | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.retry = retry or RetryConfig()
        self.limits = limits or Limits()
        self.clock = clock
        self.sleep = sleep
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    async def send(self, call: Call) -> Answer:
        """Send until there is an answer that sending again would not change, or the time for it is over.

        Raises:
            BackendUnavailable: no connection, or a broken one, after every retry.
            RequestTimeout: no answer came in time, after every retry.
            MalformedAnswer: the answer was too large, or cut short again and again.
            AnswerLost: the call is not ``repeatable`` and it is not known whether it arrived.
        """
        sent_as = str(uuid.uuid4())
        try:
            return await self._answered(call, sent_as)
        except CrucibleError as error:
            error.request_id = error.request_id or sent_as
            raise

    async def _answered(self, call: Call, sent_as: str) -> Answer:
        headers = self._headers(call, sent_as)
        begun = self.clock()
        attempt = truncated = bugs = 0
        while True:
            trouble: Answer | BackendUnavailable | RequestTimeout | MalformedAnswer
            try:
                answer = await self._once(call, headers)
                if not call.retries or not is_retryable(answer.status):
                    return answer
                if not call.repeatable and answer.status not in _NOT_TAKEN:
                    raise _lost(call, f"the server answered {answer.status}")
                bugs += answer.status == 500
                if bugs >= self.retry.attempts_at_500:
                    return answer
                trouble = answer
            except _CutShort as error:
                truncated += 1
                trouble = MalformedAnswer(f"{call.route}: {error}", backend=BACKEND, details={"cut_short": True})
                if not call.repeatable:
                    raise _lost(call, "the answer was cut short") from error
                if truncated >= _TRUNCATED_TRIES or not call.retries:
                    raise trouble from error
            except (BackendUnavailable, RequestTimeout) as error:
                if not call.repeatable and not error.details.get("never_sent"):
                    raise _lost(call, error.message) from error
                if not call.retries:
                    raise
                trouble = error
            asked = retry_after_ms(trouble.headers) if isinstance(trouble, Answer) else None
            delay = self.retry.delay_s(attempt, asked)
            if self.clock() - begun + delay > self.retry.give_up_after_s:
                if isinstance(trouble, Answer):
                    return trouble
                raise trouble
            attempt += 1
            await self.sleep(delay)

    async def download(self, url: str, *, authenticated: bool) -> AsyncIterator[bytes]:
        """Stream a file. The credential goes along only where ``authenticated`` says so.

        Raises:
            BackendUnavailable: the connection failed or broke off, or the server failed.
            NotFound, AuthenticationFailed and the like: as the server answers.
        """
        import httpx

        headers = self.endpoint.headers() if authenticated else {}
        with self._pool().lease_for(url) as client, _whole("download"), _translated("download"):
            async with client.stream("GET", url, headers=headers, follow_redirects=False) as response:
                if response.status_code != httpx.codes.OK:
                    raise error_of(await self._refusal(response))
                async for block in response.aiter_bytes(256 * 1024):
                    yield block

    async def aclose(self) -> None:
        """Close this loop's connections."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()

    def url(self, path: str) -> str:
        """The full address of a path."""
        return self.endpoint.base_url + path

    def _headers(self, call: Call, sent_as: str) -> dict[str, str]:
        headers = {"Accept": call.accept, **self.endpoint.headers(), "X-Request-Id": sent_as, **call.headers}
        if call.method == "POST":
            headers.setdefault("X-Idempotency-Key", sent_as)
        if call.body is not None:
            headers["Content-Type"] = call.body.media_type
            headers["Content-Length"] = str(call.body.size)
            if call.body.encoding:
                headers["Content-Encoding"] = call.body.encoding
        return headers

    async def _once(self, call: Call, headers: Mapping[str, str]) -> Answer:
        import httpx

        pool = self._pool()
        timeout = httpx.Timeout(
            call.read_timeout_s or self.limits.read_timeout_s, connect=self.limits.connect_timeout_s, pool=None
        )
        content = None if call.body is None else _stream(call.body)
        with pool.lease(fresh=not call.repeatable) as client, _translated(call.route):
            async with client.stream(
                call.method,
                self.url(call.path),
                params={key: value for key, value in call.params.items() if value is not None} or None,
                headers=dict(headers),
                content=content,
                timeout=timeout,
                follow_redirects=False,
            ) as response:
                content_read = await self._read(response, call.route)
                named = response.headers.get("x-request-id") or headers["X-Request-Id"]
                return Answer(response.status_code, response.headers, content_read, named)

    async def _refusal(self, response: "httpx.Response") -> Refusal:
        said = await self._read(response, "download")
        return Refusal(response.status_code, "download", said, Sought.RECORD, response.headers)

    async def _read(self, response: "httpx.Response", route: str) -> bytes:
        blocks: list[bytes] = []
        size = 0
        async for block in response.aiter_bytes():
            size += len(block)
            if size > self.limits.answer_bytes:
                raise MalformedAnswer(
                    f"{route}: the answer is larger than {self.limits.answer_bytes} bytes", backend=BACKEND
                )
            blocks.append(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _pool(self) -> "_Pool":
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(self.endpoint)
        return pool


class _Pool:
    """Clients of one event loop. A client that is busy gets a sibling: HTTP/2 limits the streams of a connection
    and our long polls hold them, and over HTTP/1.1 a pool looks at all of its connections for each request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._http2 = endpoint.base_url.startswith("https:")
        self._per_client = _STREAMS_PER_CLIENT if self._http2 else _CONNECTIONS_PER_CLIENT
        # A proxy from the environment leads away from this machine.
        self._through_proxies = not endpoint.is_local
        self._tls: ssl.SSLContext | None = None
        self._elsewhere: httpx.AsyncClient | None = None
        self._clients: list[httpx.AsyncClient] = []
        self._busy: list[int] = []
        self._unshared: httpx.AsyncClient | None = None

    @contextlib.contextmanager
    def lease(self, *, fresh: bool = False) -> Any:
        """A client to send one request with. ``fresh``: over a new connection, since one that was kept open may
        be closed by the server at the very moment of sending, and then nobody knows whether the request arrived.
        """
        if fresh:
            if self._unshared is None:
                self._unshared = self._new_client(keep=0)
            yield self._unshared
            return
        index = self._free()
        self._busy[index] += 1
        try:
            yield self._clients[index]
        finally:
            self._busy[index] -= 1

    def lease_for(self, url: str) -> Any:
        """A client for an address that may lie on another server."""
        if self._http2 or not url.startswith("https:"):
            return self.lease()
        if self._elsewhere is None:
            import httpx

            self._elsewhere = httpx.AsyncClient(trust_env=self._through_proxies)
        return contextlib.nullcontext(self._elsewhere)

    def _free(self) -> int:
        for index, busy in enumerate(self._busy):
            if busy < self._per_client:
                return index
        self._clients.append(self._new_client(keep=None if self._http2 else _CONNECTIONS_PER_CLIENT))
        self._busy.append(0)
        return len(self._busy) - 1

    def _new_client(self, *, keep: int | None = None) -> "httpx.AsyncClient":
        import httpx

        if self._tls is None:
            # Reading all authorities takes long; over plain HTTP none is needed, and a context without any
            # refuses every certificate.
            self._tls = httpx.create_ssl_context() if self._http2 else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=keep, keepalive_expiry=_KEPT_S)
        return httpx.AsyncClient(
            http2=self._http2,
            limits=limits,
            headers={"User-Agent": "nsai-work-tinkex"},
            trust_env=self._through_proxies,
            verify=self._tls,
        )

    async def aclose(self) -> None:
        clients, self._clients, self._busy = self._clients, [], []
        clients += [client for client in (self._unshared, self._elsewhere) if client is not None]
        self._unshared = self._elsewhere = None
        for client in clients:
            await client.aclose()


class _CutShort(Exception):
    """The connection ended inside an answer."""


@contextlib.contextmanager
def _whole(route: str) -> Any:
    """What is cut short is no file."""
    try:
        yield
    except _CutShort as error:
        raise BackendUnavailable(f"{route}: {error}", backend=BACKEND) from error


@contextlib.contextmanager
def _translated(route: str) -> Any:
    """httpx's errors as ours: the one place."""
    import httpx

    try:
        yield
    except httpx.DecodingError as error:
        raise MalformedAnswer(f"{route}: the answer cannot be decompressed", backend=BACKEND) from error
    except httpx.RemoteProtocolError as error:
        if "incomplete" in str(error) or "without sending complete" in str(error):
            raise _CutShort("the answer was cut short") from error
        raise BackendUnavailable(f"{route}: the connection broke: {error}", backend=BACKEND) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise BackendUnavailable(
            f"{route}: no connection to the server ({type(error).__name__}: {error})",
            backend=BACKEND,
            details={"never_sent": True},
        ) from error
    except httpx.TimeoutException as error:
        raise RequestTimeout(f"{route}: no answer in time ({type(error).__name__})", backend=BACKEND) from error
    except httpx.TransportError as error:
        raise BackendUnavailable(
            f"{route}: the server cannot be reached ({type(error).__name__}: {error})", backend=BACKEND
        ) from error


def _lost(call: Call, why: str) -> AnswerLost:
    return AnswerLost(
        f"{call.route}: {why}; whether the request took effect is not known, and this server would run it again",
        backend=BACKEND,
        details={"route": call.route},
    )


async def _stream(body: Body) -> AsyncIterator[bytes]:
    for block in body.blocks():
        yield block
