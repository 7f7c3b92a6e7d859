"""ASGI middleware against what a foreign site could do with a page on this machine.

A page on loopback is reached by every site that the browser shows: by a name that resolves to 127.0.0.1 (so only
known names are answered), by forms (so actions need the page's origin, a session and a key in the form), and by
texts of jobs that look like markup (so the content security policy allows only scripts with the answer's nonce).
"""

import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NONCE = "nsai_nonce"
"""The key of an answer's nonce in the ASGI scope."""


class Guard:
    """Refuses requests under unknown host names and writes from other origins; adds the security headers."""

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset({"localhost", *(name.lower() for name in names)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[NONCE] = nonce = secrets.token_urlsafe(16)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_headers(nonce))
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._is_known(host):
            return PlainTextResponse(
                "this page is not served under that name; nsai-work page --name NAME allows one\n", 421
            )
        if method in ("GET", "HEAD"):
            return None
        # a browser sends the origin with every form; one of another site differs from the host
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if origin is None or origin.partition("://")[2] != host or site != "same-origin":
            return PlainTextResponse("actions are taken from this page itself only\n", 403)
        return None

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    """Check whether a host is an IP address: a site that rebinds its name to loopback sends its name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _headers(nonce: str) -> dict[str, str]:
    policy = {
        "default-src": "'none'",
        "script-src": f"'nonce-{nonce}'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "htmx",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
