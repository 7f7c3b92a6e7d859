"""ASGI middleware: latency, faults, authentication, credit and idempotency."""

import asyncio
import contextlib
import hashlib
import secrets
from collections import OrderedDict
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.faults import RouteFault
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.wire.exchange import MAX_BODY_BYTES, refusal

TRANSPORT: Final = "nsai.transport"
"""Key of the connection's transport in an ASGI scope, by which a fault cuts the connection."""

_PREFIX: Final = "/api/v1/"
_WITHOUT_KEY: Final = frozenset({"healthz"})
_BILLABLE: Final = frozenset(
    {"create_model", "forward_backward", "forward", "optim_step", "asample", "load_weights"}
    | {"save_weights", "save_weights_for_sampler"}
)
_IDEMPOTENT: Final = frozenset({"create_session", "create_sampling_session", "asample"})
_MAX_ANSWERS: Final = 4096


class Gate:
    """Middleware around the routes of the API; other routes pass through."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._answers: OrderedDict[str, tuple[str, list[Message]]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            await self._app(scope, receive, send)
            return
        route = scope["path"].removeprefix(_PREFIX).partition("/")[0]
        headers = {key.decode().lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if self._service.latency_ms:
            await asyncio.sleep(self._service.latency_ms / 1000)
        if route in self._service.options.missing_routes:
            await refusal(Refused(404, "Not Found"))(scope, receive, send)
            return
        fault = self._service.faults.strike(route)
        # a client that disconnects before its body has arrived is no error of the server
        with contextlib.suppress(ClientDisconnect):
            if fault is not None:
                await self._inject(fault, scope, receive, send, headers, route)
            else:
                await self._forward(scope, receive, send, headers, route)

    async def _inject(
        self, fault: RouteFault, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], route: str
    ) -> None:
        if fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.after:
            await self._forward(scope, receive, _discard, headers, route)
        if fault.reset:
            await _cut(scope)
        elif fault.status is not None:
            extra = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
            await refusal(Refused(fault.status, fault.detail, headers=extra))(scope, receive, send)
        elif not fault.after:
            await self._forward(scope, receive, send, headers, route)
        else:
            await _cut(scope)

    async def _forward(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], route: str
    ) -> None:
        try:
            self._check_key(route, headers)
            if self._service.faults.out_of_credit and route in _BILLABLE:
                raise Refused(402, "Out of credit: top up the balance and send the request again")
        except Refused as error:
            await refusal(error)(scope, receive, send)
            return
        key = headers.get("x-idempotency-key")
        if key is None or route not in _IDEMPOTENT or not self._service.replay:
            await self._app(scope, receive, send)
            return
        await self._answer_once(f"{route}:{key}", scope, receive, send)

    def _check_key(self, route: str, headers: dict[str, str]) -> None:
        if route in _WITHOUT_KEY:
            return
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        required = self._service.options.require_key
        if required is None and key.startswith("tml-"):
            return
        if required is not None and secrets.compare_digest(key.encode(), required.encode()):
            return
        raise Refused(401, "Invalid API key: send one that begins with tml- as X-API-Key")

    async def _answer_once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _whole_body(receive)
        except Refused as error:
            await refusal(error)(scope, receive, send)
            return
        digest = hashlib.sha256(body).hexdigest()
        earlier = self._answers.get(key)
        if earlier is not None:
            if earlier[0] != digest:
                await refusal(Refused(409, "this idempotency key was used with another body"))(scope, receive, send)
                return
            for message in earlier[1]:
                await send(message)
            return
        sent: list[Message] = []

        async def record(message: Message) -> None:
            sent.append(message)
            await send(message)

        await self._app(scope, _BufferedBody(body, receive), record)
        if sent and sent[0].get("status", 500) < 300:
            self._answers[key] = (digest, sent)
            while len(self._answers) > _MAX_ANSWERS:
                self._answers.popitem(last=False)


class _BufferedBody:
    """A receive channel that replays a body already read."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _whole_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


async def _discard(_message: Message) -> None:
    """Drop a message of an answer."""


async def _cut(scope: Scope) -> None:
    transport: Any = scope.get(TRANSPORT)
    if transport is not None:
        transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)
