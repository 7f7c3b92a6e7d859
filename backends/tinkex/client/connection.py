"""One server, spoken to in records: requests, accepted requests, and their results."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from backends.tinkex.errors import Refusal, Sought, error_of, is_unknown_route, malformed
from backends.tinkex.settings import API_KEY_NAME
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.body import Body, json_body
from backends.tinkex.wire.features import FeatureMemory, ServerFeatures
from backends.tinkex.wire.transport import Answer, Call, Transport
from crucible.errors import BackendUnavailable, CrucibleError, Unsupported

SDK_VERSION: Final = "0.38.0"
"""The version of the protocol that is spoken; servers choose their flags by it."""

_BUSY: Final = frozenset({408, 425, 429, 502, 503, 504})
R = TypeVar("R", bound=BaseModel)
_log = logging.getLogger(__name__)


class Connection:
    """Requests to one server, with typed answers, typed errors, and what was learned of the server."""

    def __init__(self, transport: Transport, memory: FeatureMemory | None = None) -> None:
        self.transport = transport
        self.memory = memory or FeatureMemory.of(transport.endpoint.base_url)
        self._config: ClientConfig | None = None

    @property
    def features(self) -> ServerFeatures:
        """What is known of the server by now."""
        return self.memory.features

    @property
    def server(self) -> str:
        """The server's address, for messages."""
        return self.transport.endpoint.base_url

    async def get(
        self, path: str, answer: type[R], *, sought: Sought = Sought.RECORD, params: Mapping[str, Any] | None = None
    ) -> R:
        """GET a record. Raises CrucibleError."""
        call = Call("GET", _api(path), params=params or {})
        return self.read(await self.ask(call, sought=sought), answer, call.route)

    async def post(
        self,
        path: str,
        body: Any,
        answer: type[R],
        *,
        sought: Sought = Sought.SERVICE,
        retries: bool = True,
        read_timeout_s: float | None = None,
    ) -> R:
        """POST JSON and read the record that comes back at once. Raises CrucibleError."""
        call = Call("POST", _api(path), json_body(body), retries=retries, read_timeout_s=read_timeout_s)
        return self.read(await self.ask(call, sought=sought), answer, call.route)

    async def submit(
        self, path: str, body: Body, *, sought: Sought, repeatable: bool = True, retries: bool = True
    ) -> AcceptedRequest:
        """POST a request whose result comes later; returns once the server has accepted it."""
        call = Call("POST", _api(path), body, repeatable=repeatable, retries=retries)
        return self.read(await self.ask(call, sought=sought), AcceptedRequest, call.route)

    async def ask(self, call: Call, *, sought: Sought, request_id: str | None = None) -> Answer:
        """Send; an answer that is not 2xx is raised as the error it means."""
        answer = await self.transport.send(call)
        if not answer.ok:
            raise error_of(self.refusal(answer, call.route, sought, request_id))
        return answer

    def refusal(self, answer: Answer, route: str, sought: Sought, request_id: str | None = None) -> Refusal:
        """An answer that is not a result, with its circumstances."""
        return Refusal(
            status=answer.status,
            route=route,
            body=answer.content,
            sought=sought,
            headers=answer.headers,
            request_id=request_id or answer.request_id,
            credential=API_KEY_NAME,
        )

    def read(self, answer: Answer, kind: type[R], route: str, request_id: str | None = None) -> R:
        """The answer as a record. Raises MalformedAnswer."""
        named = request_id or answer.request_id
        return read_record(self.read_json(answer, route, named), kind, route, named)

    def read_json(self, answer: Answer, route: str, request_id: str | None = None) -> Any:
        """The answer as JSON; an empty one is an empty object. Raises MalformedAnswer."""
        if not answer.content.strip():
            return {}
        try:
            return from_json(answer.content)
        except ValueError as error:
            raise malformed(f"the answer is not JSON: {error}", route=route, request_id=request_id) from error

    async def client_config(self) -> ClientConfig:
        """The server's flags, asked for once; a server without them has the defaults."""
        if self._config is None:
            call = Call("POST", _api("client/config"), json_body({"sdk_version": SDK_VERSION}))
            answer = await self.transport.send(call)
            if answer.ok:
                self._config = self.read(answer, ClientConfig, call.route)
            elif answer.status in (404, 405, 422, 501):
                self._config = ClientConfig()
            else:
                raise error_of(self.refusal(answer, call.route, Sought.SERVICE))
        return self._config

    async def offers(self, method: str, path: str, *, params: Mapping[str, Any] | None = None) -> bool:
        """Whether the server has a route at all, asked with something that does not exist there."""
        call = Call(method, _api(path), params=params or {}, retries=False)
        try:
            answer = await self.transport.send(call)
        except BackendUnavailable:
            answer = await self.transport.send(replace(call, retries=True))
        if answer.status in _BUSY:
            answer = await self.transport.send(replace(call, retries=True))
        if answer.status in (401, 402, 403):
            raise error_of(self.refusal(answer, call.route, Sought.SERVICE))
        return not is_unknown_route(self.refusal(answer, call.route, Sought.RECORD))


def read_record(value: Any, kind: type[R], route: str, request_id: str | None = None) -> R:
    """JSON as a record. Raises MalformedAnswer naming the first field that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the answer"
        raise malformed(
            f"the answer is no {kind.__name__}: {where}: {first['msg']}", route=route, request_id=request_id
        ) from None


def named_unsupported(error: CrucibleError, fields: tuple[str, ...], server: str) -> CrucibleError:
    """A 422 about an optional field that this server does not know is a capability that it lacks."""
    field = error.details.get("field")
    if isinstance(field, str) and field.rpartition(".")[2] in fields and error.details.get("status") == 422:
        return Unsupported(
            f"{field} is not offered by the server at {server}",
            backend=error.backend,
            request_id=error.request_id,
            details=error.details,
        )
    return error


def _api(path: str) -> str:
    return f"/api/v1/{path}"
