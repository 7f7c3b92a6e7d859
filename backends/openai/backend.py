"""``OpenAIBackend``: completions from an OpenAI-compatible server, through the official library."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import JsonValue

from backends.openai.answers import choices_of, completion_of, price, text_of, usage_of
from backends.openai.chunks import ChunkConverter
from backends.openai.errors import translated
from backends.openai.requests import request_body
from backends.openai.settings import BACKEND, MODEL_VARIABLE, OTHER_OPTIONS, Claim, OpenAISettings, Option
from backends.openai.streams import parsed, stream_events
from backends.openai.wire import read_answer, read_models
from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion, Usage
from crucible.errors import CallerError, CrucibleError, Unsupported
from crucible.http.bounded_responses import bounded_responses
from crucible.http.decompression import ACCEPT_ENCODING
from crucible.http.new_connections import NewConnections
from crucible.prompt import Prompt
from crucible.requirements import require
from crucible.stream import StreamEvent
from crucible.values.record_reader import read_record

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@cache
def _tls(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """The TLS context of all clients: loading the certificate authorities takes longer than all else of ``open``.

    The arguments are the variables of the environment that httpx reads.
    """
    import httpx

    return httpx.create_ssl_context()


class OpenAIBackend(Backend):
    """A backend for one server. ``config``: see ``OpenAISettings``."""

    name: ClassVar[str] = BACKEND
    requires: ClassVar[tuple[str, ...]] = ("openai",)

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(OpenAISettings, dict(config or {}), backend=BACKEND)
        self._settings.address()
        self._settings.key()
        self._client: AsyncOpenAI | None = None
        self._new_connections = NewConnections()
        self._models: tuple[str, ...] | None = self._settings.models

    @classmethod
    def configured_model(cls) -> str | None:
        return os.environ.get(MODEL_VARIABLE) or None

    async def open(self) -> None:
        if self._client is None:
            # in a thread, because the first import takes a second
            self._client = await asyncio.to_thread(self._new_client)

    def _new_client(self) -> "AsyncOpenAI":
        """Create the client. The parts that its library imports on first use are imported too."""
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        except ImportError as exc:
            raise Unsupported(
                "the package openai is not installed; pip install 'nsai-work[openai]'", backend=BACKEND
            ) from exc
        self._new_connections = NewConnections()
        client = AsyncOpenAI(
            api_key=self._settings.key(),
            base_url=self._settings.address(),
            timeout=self._settings.timeout_s,
            max_retries=self._settings.max_retries,
            http_client=DefaultAsyncHttpxClient(
                verify=_tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
                headers={"Accept-Encoding": ACCEPT_ENCODING},
                event_hooks={
                    "request": [self._new_connections.watch],
                    "response": [bounded_responses(self._settings.max_response_bytes)],
                },
            ),
        )
        _ = client.chat.completions.with_raw_response, client.models.with_raw_response
        return client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            self._new_connections.close()
            await client.close()

    async def capabilities(self) -> Capabilities:
        models = await self._known_models()
        settings = self._settings
        claims = {claim: claim not in settings.without for claim in get_args(Claim)}
        return Capabilities(
            backend_id=BACKEND,
            provider=BACKEND,
            models=models,
            default_model=settings.default_model or (models[0] if models else None),
            token_streaming=claims["supports_streaming"],
            options=(
                *(option for option in get_args(Option) if option not in settings.without_options),
                *OTHER_OPTIONS,
            ),
            max_context_length=settings.max_context_length,
            cost_per_million_input=settings.cost_per_million_input,
            cost_per_million_cached_input=settings.cost_per_million_cached_input,
            cost_per_million_output=settings.cost_per_million_output,
            supports_thinking_history=settings.thinking_in() is not None,
            **claims,
        )

    async def health_check(self) -> Health:
        details: dict[str, JsonValue] = {"base_url": self._settings.address()}
        try:
            details["models"] = len(await self._list_models(retries=0))
        except CrucibleError as error:
            # configured models make the server's list unnecessary, which some servers do not provide
            reachable = error.code != "authentication_failed" and "status" in error.details
            if self._settings.models is None or not reachable:
                return Health(ok=False, reason=str(error), details={"code": error.code})
        return Health(ok=True, details=details)

    async def complete(self, prompt: Prompt) -> Completion:
        model = await self._checked(prompt)
        body = self._body(prompt, model)
        began = time.monotonic()
        try:
            response = await self._client_for(prompt).chat.completions.with_raw_response.create(**body)
            data = parsed(response.content)
            return self._completion(data, prompt, model, began)
        except Exception as exc:
            raise translated(exc, model) from None

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        """Stream the answer. One that the server sends whole, although a stream was requested, is split."""
        model = await self._checked(prompt)
        body = self._body(prompt, model)
        converter = ChunkConverter(prompt, model)
        response: Any = None
        began = time.monotonic()
        try:
            raw = await self._client_for(prompt).chat.completions.with_raw_response.create(
                **body, stream=True, stream_options={"include_usage": True}
            )
            response = raw.http_response
            async for event in stream_events(
                response.aiter_bytes(),
                converter,
                whole=lambda data: self._completion(data, prompt, model, began),
                usage=lambda wire, text: self._usage_and_cost(wire, prompt, text),
            ):
                yield event
        except Exception as exc:
            error = translated(exc, model)
            error.details.update(converter.received())
            raise error from None
        finally:
            if response is not None:
                await response.aclose()

    def _body(self, prompt: Prompt, model: str) -> dict[str, Any]:
        return request_body(prompt, model, self._settings.limit_field(), thinking=self._settings.thinking_in())

    def _completion(self, data: Any, prompt: Prompt, model: str, began: float) -> Completion:
        answer = read_answer(data, model)
        choices = choices_of(answer)
        usage, cost = self._usage_and_cost(answer.reported_usage, prompt, text_of(choices))
        return completion_of(
            answer,
            choices,
            prompt=prompt,
            model=model,
            usage=usage,
            cost=cost,
            began=began,
            raw=data if self._settings.keep_raw_response else None,
        )

    async def _checked(self, prompt: Prompt) -> str:
        capabilities = await self.capabilities()
        require(prompt, capabilities)
        return prompt.options.model or capabilities.default_model or ""

    def _client_for(self, prompt: Prompt) -> "AsyncOpenAI":
        limit_ms = prompt.options.timeout_ms
        if limit_ms is None:
            return self._opened
        return self._opened.with_options(timeout=limit_ms / 1000, max_retries=0)

    @property
    def _opened(self) -> "AsyncOpenAI":
        if self._client is None:
            raise CallerError("open the backend first: async with backend: ...", backend=BACKEND)
        return self._client

    async def _known_models(self) -> tuple[str, ...]:
        if self._models is None:
            self._models = await self._list_models(retries=self._settings.max_retries)
        return self._models

    async def _list_models(self, *, retries: int) -> tuple[str, ...]:
        try:
            client = self._opened.with_options(max_retries=retries, timeout=10.0)
            return read_models(parsed((await client.models.with_raw_response.list()).content))
        except Exception as exc:
            raise translated(exc) from None

    def _usage_and_cost(self, wire: Any, prompt: Prompt, text: str) -> tuple[Usage, float | None]:
        usage = usage_of(wire, prompt, text)
        return usage, self._cost(usage)

    def _cost(self, usage: Usage) -> float | None:
        settings = self._settings
        input_price, output_price = settings.cost_per_million_input, settings.cost_per_million_output
        if input_price is None or output_price is None:
            return None
        return price(usage, (input_price, output_price), settings.cost_per_million_cached_input)
