"""A small server that speaks OpenAI's chat completions, with the scripted backend's real model behind it."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.fake import FakeBackend
from backends.tiny_lm.network import BASE_MODELS
from crucible import Choice, Options, Prompt

KEY = "sk-test-0123456789"


class OpenAIServer:
    """In a thread of this process. ``refuse_next`` makes the next request fail; ``bodies`` are what came in."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refuse_next: tuple[int, dict[str, Any], dict[str, str]] | None = None
        self.break_stream_after: int | None = None
        self._backend = FakeBackend()
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
        ]
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        # now, so that a request that is earlier than the thread waits
        self._socket.listen()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            body = {"error": {"message": f"Incorrect API key: {request.headers.get('authorization')}"}}
            return JSONResponse(body, 401)
        if self.refuse_next is not None:
            (status, error, headers), self.refuse_next = self.refuse_next, None
            return JSONResponse({"error": error}, status, headers)
        return None

    async def models(self, request: Request) -> Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in BASE_MODELS]
        return self._refusal(request) or JSONResponse({"object": "list", "data": listed})

    async def complete(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        body = await request.json()
        self.bodies.append(body)
        completion = await self._backend.complete(_prompt(body))
        choices = [_choice(choice, body) for choice in completion.choices]
        assert completion.usage is not None
        usage = completion.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"})
        usage["prompt_tokens_details"] = {"cached_tokens": 3}
        head = {"id": "chatcmpl-1", "created": 0, "model": body["model"]}
        if body.get("stream"):
            return StreamingResponse(self._chunks(head, choices, usage), media_type="text/event-stream")
        return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage})

    async def _chunks(
        self, head: dict[str, Any], choices: list[dict[str, Any]], usage: dict[str, Any]
    ) -> AsyncIterator[str]:
        head = {**head, "object": "chat.completion.chunk"}
        deltas = [delta for choice in choices for delta in _deltas(choice)]
        for number, delta in enumerate(deltas):
            if number == self.break_stream_after:
                return  # without [DONE], as a proxy that ends its connection to the server
            yield f"data: {json.dumps({**head, 'choices': [delta]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def _prompt(body: dict[str, Any]) -> Prompt:
    texts = [
        message["content"]
        if isinstance(message["content"], str)
        else "".join(part.get("text", "") for part in message["content"] or ())
        for message in body["messages"]
    ]
    options = {
        name: body[name]
        for name in ("temperature", "top_p", "top_k", "seed", "stop", "n", "logprobs", "top_logprobs", "max_tokens")
        if name in body
    }
    messages = [{"role": "user", "content": text} for text in texts]
    return Prompt(messages=messages, options=Options(model=body["model"], **options))


def _choice(choice: Choice, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.message.text()}
    finish = str(choice.finish_reason)
    if body.get("response_format", {}).get("type") in ("json_object", "json_schema"):
        message["content"], finish = json.dumps({"said": message["content"]}), "stop"
    if body.get("tool_choice") not in (None, "none", "auto"):
        named = body["tools"][0]["function"]["name"]
        function = {"name": named, "arguments": '{"town": "Ulm"}'}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
        }
        finish = "tool_calls"
    logprobs = None
    if choice.logprobs is not None:
        content = [
            {
                "token": one.token,
                "logprob": one.logprob,
                "bytes": None,
                "top_logprobs": [{"token": top.token, "logprob": top.logprob, "bytes": None} for top in one.top],
            }
            for one in choice.logprobs
        ]
        logprobs = {"content": content, "refusal": None}
    return {"index": choice.index, "message": message, "finish_reason": finish, "logprobs": logprobs}


def _deltas(choice: dict[str, Any]) -> list[dict[str, Any]]:
    message, index = choice["message"], choice["index"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    text = message["content"] or ""
    deltas += [{"content": text[start : start + 3]} for start in range(0, len(text), 3)]
    for number, call in enumerate(message.get("tool_calls", ())):
        head = {"index": number, "id": call["id"], "type": "function"}
        deltas.append({"tool_calls": [{**head, "function": {"name": call["function"]["name"], "arguments": ""}}]})
        arguments = call["function"]["arguments"]
        deltas += [
            {"tool_calls": [{"index": number, "function": {"arguments": arguments[start : start + 4]}}]}
            for start in range(0, len(arguments), 4)
        ]
    chunks: list[dict[str, Any]] = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
    if choice["logprobs"] is not None:
        chunks[0]["logprobs"] = choice["logprobs"]
    return [*chunks, {"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]
