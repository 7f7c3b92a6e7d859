"""ASGI middleware: access control, and the bound on what a call sends.

The server is on loopback, which a page in a browser reaches too. A page of another site sends its own ``Origin``,
or, after its name was pointed to this machine, its own ``Host``; both are refused.
"""

import secrets
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nsai_work.chat_server.errors import ApiError

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_OPEN: Final = 256
"""The number of calls that are answered at the same time."""


class AccessCheck:
    """Refuses calls without the key, calls of pages of other sites, and more than ``MAX_OPEN`` calls at a time."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        problem = self._problem(Headers(scope=scope))
        if problem is not None:
            await error_response(problem)(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1

    def _problem(self, headers: Headers) -> ApiError | None:
        if _host_of(f"//{headers.get('host', '')}") not in LOCAL_NAMES:
            return _forbidden("Host: this server answers to localhost and 127.0.0.1 only")
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) not in LOCAL_NAMES:
            return _forbidden("Origin: pages of other sites may not call this server")
        if self._key is not None:
            kind, _, sent = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(sent.strip().encode(), self._key):
                text = "Authorization: this server needs its key, as Bearer KEY (OPENAI_API_KEY of most clients)"
                return ApiError(401, text, "invalid_request_error", code="invalid_api_key")
        if self._open >= MAX_OPEN:
            text = f"this server answers at most {MAX_OPEN} calls at a time"
            return ApiError(429, text, "rate_limit_error", code="capacity", retry_after_s=1)
        return None


def error_response(error: ApiError) -> JSONResponse:
    """Return the response for an error."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body, error.status, headers)


def _forbidden(text: str) -> ApiError:
    return ApiError(403, text, "permission_error", code="forbidden")


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
