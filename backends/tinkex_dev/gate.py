"""What stands before every route: latency, faults, the key, credit, and answers to resent posts."""

import asyncio
import contextlib
import hashlib
import secrets
from collections import OrderedDict
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.exchange import refusal
from backends.tinkex_dev.faults import RouteFault
from backends.tinkex_dev.service import Service

TRANSPORT: Final = "nsai.transport"
"""Where in an ASGI scope the server leaves the connection, so that a fault can cut it."""

_PREFIX: Final = "/api/v1/"
_OPEN: Final = frozenset({"healthz"})
_COSTLY: Final = frozenset(
    {"create_model", "forward_backward", "forward", "optim_step", "asample", "load_weights"}
    | {"save_weights", "save_weights_for_sampler"}
)
_ONCE: Final = frozenset({"create_session", "create_sampling_session", "asample"})
_REMEMBERED: Final = 4096


class Gate:
    """An ASGI wrapper around the API."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._answered: OrderedDict[str, tuple[str, list[Message]]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            await self._app(scope, receive, send)
            return
        route = scope["path"].removeprefix(_PREFIX).partition("/")[0]
        headers = {key.decode().lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if self._service.latency_ms:
            await asyncio.sleep(self._service.latency_ms / 1000)
        fault = self._service.faults.strike(route)
        # a client that hangs up before its body has arrived gets no answer, and is no error of the server
        with contextlib.suppress(ClientDisconnect):
            if fault is not None:
                await self._disturb(fault, scope, receive, send, headers, route)
            else:
                await self._pass(scope, receive, send, headers, route)

    async def _disturb(
        self, fault: RouteFault, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], route: str
    ) -> None:
        if fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.after:
            await self._pass(scope, receive, _nowhere, headers, route)
        if fault.reset:
            await _cut(scope)
        elif fault.status is not None:
            extra = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
            await refusal(Refused(fault.status, fault.detail, headers=extra))(scope, receive, send)
        elif not fault.after:
            await self._pass(scope, receive, send, headers, route)
        else:
            await _cut(scope)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], route: str) -> None:
        try:
            self._check_key(route, headers)
            if self._service.faults.out_of_credit and route in _COSTLY:
                raise Refused(402, "Out of credit: add to the balance and the request will be accepted")
        except Refused as error:
            await refusal(error)(scope, receive, send)
            return
        key = headers.get("x-idempotency-key")
        if key is None or route not in _ONCE or not self._service.replay:
            await self._app(scope, receive, send)
            return
        await self._once(f"{route}:{key}", scope, receive, send)

    def _check_key(self, route: str, headers: dict[str, str]) -> None:
        if route in _OPEN:
            return
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        wanted = self._service.options.require_key
        if wanted is None and given.startswith("tml-"):
            return
        if wanted is not None and secrets.compare_digest(given.encode(), wanted.encode()):
            return
        raise Refused(401, "Invalid API key: send one that begins with tml- as X-API-Key")

    async def _once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole_body(receive)
        digest = hashlib.sha256(body).hexdigest()
        known = self._answered.get(key)
        if known is not None:
            if known[0] != digest:
                await refusal(Refused(409, "this idempotency key was used with another body"))(scope, receive, send)
                return
            for message in known[1]:
                await send(message)
            return
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)
            await send(message)

        await self._app(scope, _Given(body, receive), keep)
        if sent and sent[0].get("status", 500) < 300:
            self._answered[key] = (digest, sent)
            while len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)


class _Given:
    """A receive channel that first gives a body already read."""

    def __init__(self, body: bytes, rest: Receive) -> None:
        self._body: bytes | None = body
        self._rest = rest

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._rest()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _whole_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _nowhere(_message: Message) -> None:
    """Where an answer goes that is to be lost."""


async def _cut(scope: Scope) -> None:
    transport: Any = scope.get(TRANSPORT)
    if transport is not None:
        transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)
