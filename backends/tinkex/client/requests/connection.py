"""Typed requests to one server: records in, records or typed errors out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from backends.tinkex.errors import (
    ErrorResponse,
    Resource,
    error_from_response,
    is_unknown_route,
    malformed,
)
from backends.tinkex.settings import API_KEY_NAME
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.wire.body import EncodedBody, json_body
from backends.tinkex.wire.features import FeatureMemory, ServerFeatures
from backends.tinkex.wire.transport import HttpRequest, HttpResponse, HttpTransport
from crucible.errors import BackendUnavailable, CrucibleError, Unsupported

SDK_VERSION: Final = "0.38.0"
"""The protocol version that is announced to servers, which choose their flags by it."""

_BUSY: Final = frozenset({408, 425, 429, 502, 503, 504})
R = TypeVar("R", bound=BaseModel)


class Connection:
    """Requests to one server, with typed results and errors, and a memory of the server's features."""

    def __init__(self, transport: HttpTransport, memory: FeatureMemory | None = None) -> None:
        self.transport = transport
        self.memory = memory or FeatureMemory.of(transport.endpoint.base_url)
        self.checkpoint_metrics: dict[tuple[str, str], float] = {}
        """The metrics given at saves, by run id and name; no server stores them."""
        self._config: ClientConfig | None = None

    @property
    def features(self) -> ServerFeatures:
        """The known features of the server."""
        return self.memory.features

    @property
    def server(self) -> str:
        """The server's address, for messages."""
        return self.transport.endpoint.base_url

    async def get(
        self,
        path: str,
        kind: type[R],
        *,
        resource: Resource = Resource.RECORD,
        params: Mapping[str, Any] | None = None,
    ) -> R:
        """GET a record. Raises CrucibleError."""
        request = HttpRequest("GET", _api(path), params=params or {})
        return self.read(await self.send(request, resource=resource), kind, request.route)

    async def post(
        self,
        path: str,
        body: Any,
        kind: type[R],
        *,
        resource: Resource = Resource.SERVICE,
        retries: bool = True,
        read_timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> R:
        """POST JSON and read the record in the response. Raises CrucibleError."""
        request = HttpRequest(
            "POST",
            _api(path),
            json_body(body),
            retries=retries,
            read_timeout_s=read_timeout_s,
            headers=headers or {},
        )
        return self.read(await self.send(request, resource=resource), kind, request.route)

    async def submit(
        self,
        path: str,
        body: EncodedBody,
        *,
        resource: Resource,
        repeatable: bool = True,
        retries: bool = True,
        waits_for_capacity: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> AcceptedRequest:
        """POST a request whose result comes later; return once the server has accepted it."""
        request = HttpRequest(
            "POST",
            _api(path),
            body,
            repeatable=repeatable,
            retries=retries,
            waits_for_capacity=waits_for_capacity,
            headers=headers or {},
        )
        return self.read(await self.send(request, resource=resource), AcceptedRequest, request.route)

    async def send(self, request: HttpRequest, *, resource: Resource) -> HttpResponse:
        """Send a request. Raises the typed error for a response that is not 2xx."""
        response = await self.transport.send(request)
        if not response.ok:
            raise error_from_response(self.error_response(response, request.route, resource))
        return response

    def error_response(
        self, response: HttpResponse, route: str, resource: Resource, request_id: str | None = None
    ) -> ErrorResponse:
        """Return a non-2xx response with the context that its translation into an error needs."""
        return ErrorResponse(
            status=response.status,
            route=route,
            body=response.content,
            resource=resource,
            headers=response.headers,
            request_id=request_id or response.request_id,
            credential=API_KEY_NAME,
        )

    def read(self, response: HttpResponse, kind: type[R], route: str) -> R:
        """Parse a response as a record. Raises MalformedAnswer."""
        value = self.read_json(response, route, response.request_id)
        return decode_record(value, kind, route, response.request_id)

    def read_json(self, response: HttpResponse, route: str, request_id: str | None = None) -> Any:
        """Parse a response as JSON; an empty body is an empty object. Raises MalformedAnswer."""
        if not response.content.strip():
            return {}
        try:
            return from_json(response.content)
        except ValueError as error:
            raise malformed(f"the response is not JSON: {error}", route=route, request_id=request_id) from error

    async def client_config(self) -> ClientConfig:
        """Return the server's client flags, fetched once; the defaults for a server that has none."""
        if self._config is None:
            request = HttpRequest("POST", _api("client/config"), json_body({"sdk_version": SDK_VERSION}))
            response = await self.transport.send(request)
            if response.ok:
                self._config = self.read(response, ClientConfig, request.route)
            elif response.status in (404, 405, 422, 501):
                self._config = ClientConfig()
            else:
                raise error_from_response(self.error_response(response, request.route, Resource.SERVICE))
        return self._config

    async def has_route(self, method: str, path: str, *, params: Mapping[str, Any] | None = None) -> bool:
        """Return whether the server has a route, probed with an id that does not exist there."""
        request = HttpRequest(method, _api(path), params=params or {}, retries=False)
        try:
            response = await self.transport.send(request)
        except BackendUnavailable:
            response = await self.transport.send(replace(request, retries=True))
        if response.status in _BUSY:
            response = await self.transport.send(replace(request, retries=True))
        if response.status in (401, 402, 403):
            raise error_from_response(self.error_response(response, request.route, Resource.SERVICE))
        return not is_unknown_route(self.error_response(response, request.route, Resource.RECORD))


def decode_record(value: Any, kind: type[R], route: str, request_id: str | None = None) -> R:
    """Validate JSON as a record. Raises MalformedAnswer, naming the first invalid field."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the response"
        raise malformed(
            f"the response is not a valid {kind.__name__}: {where}: {first['msg']}",
            route=route,
            request_id=request_id,
        ) from None


def named_unsupported(error: CrucibleError, fields: tuple[str, ...], server: str) -> CrucibleError:
    """Return Unsupported for a 422 about an optional field that the server does not know, else ``error`` itself."""
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
