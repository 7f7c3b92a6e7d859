"""The ASGI application: chat completions, whole and streamed, and the list of models."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Final, TypeVar

from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from crucible.backend import Backend
from crucible.errors import CrucibleError, InvalidRequest
from crucible.prompt import Prompt
from crucible.runtime.checked_calls import checked_capabilities, checked_completion, checked_stream
from crucible.stream import StreamEvent, events_of
from nsai_work.chat_server.access import AccessCheck, error_response
from nsai_work.chat_server.answers import AnswerFields, ChunkSequence, completion_json
from nsai_work.chat_server.errors import ApiError, api_error
from nsai_work.chat_server.models import OfferedModels
from nsai_work.chat_server.pulled_stream import PulledStream
from nsai_work.chat_server.requests import ChatRequest, prompt_of, read_request
from nsai_work.clock import SystemClock
from nsai_work.files.json_text import RepeatedField, unique_fields
from nsai_work.telemetry.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)

MAX_BODY_BYTES: Final = 64 << 20
DISCONNECTED: Final = 499
"""The status of a call whose client is gone; nobody reads it."""
_DONE: Final = b"data: [DONE]\n\n"


def chat_app(backend: Backend, chosen: Mapping[str, str], *, key: str | None = None) -> ASGIApp:
    """Return the application for an open backend, behind an ``AccessCheck``. ``chosen``: see ``OfferedModels``."""
    calls = _Calls(backend, OfferedModels(backend, chosen))
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", calls.complete, methods=["POST"]),
            Route("/v1/models", calls.models, methods=["GET"]),
            Route("/v1/models/{name:path}", calls.model, methods=["GET"]),
        ],
        exception_handlers={
            CrucibleError: _on_known,
            _Refused: _on_refused,
            404: _on_unknown_route,
            405: _on_unknown_route,
            Exception: _on_unexpected,
        },
    )
    return AccessCheck(app, key)


class _Calls:
    """The endpoints."""

    def __init__(self, backend: Backend, models: OfferedModels) -> None:
        self._backend = backend
        self._models = models
        self._clock = SystemClock()
        self._created = int(self._clock.now().timestamp())

    async def models(self, request: Request) -> Response:
        """List the models."""
        del request
        return JSONResponse({"object": "list", "data": [self._model(name) for name in await self._models.names()]})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        name = request.path_params["name"]
        if not await self._models.is_listed(name):
            raise await self._models.unknown(name)
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, JsonValue]:
        owner = self._backend.name
        return {"id": name, "object": "model", "created": self._created, "owned_by": owner}

    async def complete(self, request: Request) -> Response:
        """Answer a conversation."""
        try:
            asked = read_request(await _json_body(request))
        except ClientDisconnect:
            return Response(status_code=DISCONNECTED)
        prompt = prompt_of(asked, await self._models.find(asked.model))
        head = AnswerFields(asked.model, int(self._clock.now().timestamp()))
        headers = {"x-request-id": head.id}
        if asked.user is not None:
            log.info("chat_server.request", request_id=head.id, model=asked.model, user=asked.user)
        if not asked.stream:
            answer = await _while_connected(request, checked_completion(self._backend, prompt))
            if answer is None:
                return Response(status_code=DISCONNECTED)
            return JSONResponse(completion_json(head, answer), headers=headers)
        stream = PulledStream(self._events(prompt))
        try:
            # what is refused before the first event has a status of its own
            first = await _while_connected(request, stream.next())
        except BaseException:
            await stream.close()
            raise
        if first is None:
            await stream.close()
            return Response(status_code=DISCONNECTED)
        return _EventStream(stream, _server_sent(_chunks(first, stream, head, asked)), headers)

    async def _events(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        if not (await checked_capabilities(self._backend)).supports_streaming:
            for event in events_of(await checked_completion(self._backend, prompt)):
                yield event
            return
        async for event in checked_stream(self._backend, prompt):
            yield event


class _EventStream(StreamingResponse):
    """A response whose events are no longer pulled once it is sent, or its client is gone."""

    def __init__(self, stream: PulledStream, body: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(body, media_type="text/event-stream", headers={**headers, "Cache-Control": "no-cache"})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.close()


async def _chunks(
    first: StreamEvent, stream: PulledStream, head: AnswerFields, asked: ChatRequest
) -> AsyncIterator[dict[str, JsonValue]]:
    chunks = ChunkSequence(head, include_usage=asked.includes_usage)
    event: StreamEvent | None = first
    while event is not None:
        for chunk in chunks.add(event):
            yield chunk
        event = await stream.next()


async def _server_sent(chunks: AsyncIterator[dict[str, JsonValue]]) -> AsyncIterator[bytes]:
    """Encode chunks as server-sent events. An error is the last one, in the place of ``[DONE]``."""
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except CrucibleError as error:
        yield _event(api_error(error).body)
    except Exception:
        log.exception("chat_server.failed")
        yield _event(_UNEXPECTED.body)
    else:
        yield _DONE


def _event(data: dict[str, JsonValue]) -> bytes:
    return f"data: {json.dumps(data, allow_nan=False)}\n\n".encode()


async def _while_connected(request: Request, work: Awaitable[T]) -> T | None:
    """Await work; cancel it when the client disconnects, and return None then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Refused(Exception):
    """A request that is refused with a status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.error = ApiError(status, message, "invalid_request_error", code="invalid_request")


async def _json_body(request: Request) -> object:
    """Read a body of JSON. Raises InvalidRequest, or _Refused for one that is no JSON or too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # a page of another site can send any other type without being asked first
        raise _Refused(415, f"Content-Type: {kind[:100]!r} is not allowed; it must be application/json")
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY_BYTES:
            raise _Refused(413, f"body: it has more than {MAX_BODY_BYTES} bytes, which is the limit")
    try:
        return json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=unique_fields)
    except RepeatedField as error:
        raise InvalidRequest(f"body: {error}", details={"field": "body"}) from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"body: it is not JSON ({error})", details={"field": "body"}) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_UNEXPECTED: Final = ApiError(500, "internal error; the log of the server has the reason", "server_error")


async def _on_known(_request: Request, error: Exception) -> Response:
    assert isinstance(error, CrucibleError)
    return error_response(api_error(error))


async def _on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return error_response(error.error)


async def _on_unexpected(_request: Request, error: Exception) -> Response:
    log.error("chat_server.failed", exc_info=error)
    return error_response(_UNEXPECTED)


async def _on_unknown_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    text = (
        f"{request.method} {request.url.path[:200]}: this server has POST /v1/chat/completions, GET /v1/models and"
        " GET /v1/models/NAME"
    )
    return error_response(ApiError(status, text, "invalid_request_error", code="unknown_url"))
