"""``OpenAIBackend``: completions from an OpenAI-compatible server, through the official library."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import JsonValue

from backends.openai.answers import ChunkConverter, choice_of, completion_of, price, text_of, usage_of
from backends.openai.errors import translated
from backends.openai.requests import request_body
from backends.openai.settings import BACKEND, Claim, OpenAISettings, Option
from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion, Usage
from crucible.errors import CallerError, CrucibleError, Unsupported
from crucible.parsing import read_record
from crucible.prompt import Prompt
from crucible.requirements import require
from crucible.stream import StreamEvent

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class OpenAIBackend(Backend):
    """A backend for one server. ``config``: see ``OpenAISettings``."""

    name: ClassVar[str] = BACKEND
    requires: ClassVar[tuple[str, ...]] = ("openai",)

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(OpenAISettings, dict(config or {}), backend=BACKEND)
        self._settings.address()
        self._settings.key()
        self._client: AsyncOpenAI | None = None
        self._models: tuple[str, ...] | None = self._settings.models

    async def open(self) -> None:
        if self._client is not None:
            return
        try:
            from openai import AsyncOpenAI
        except ImportError as exc:
            raise Unsupported(
                "the package openai is not installed; pip install 'nsai-work[openai]'", backend=BACKEND
            ) from exc
        self._client = AsyncOpenAI(
            api_key=self._settings.key(),
            base_url=self._settings.address(),
            timeout=self._settings.timeout_s,
            max_retries=self._settings.max_retries,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
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
                "timeout_ms",
                "extra",
            ),
            max_context_length=settings.max_context_length,
            cost_per_million_input=settings.cost_per_million_input,
            cost_per_million_output=settings.cost_per_million_output,
            **claims,
        )

    async def health_check(self) -> Health:
        details: dict[str, JsonValue] = {"base_url": self._settings.address()}
        try:
            details["models"] = len(await self._list_models(retries=0))
        except CrucibleError as error:
            # configured models make the server's list unnecessary, which some servers do not provide
            reachable = error.code != "authentication_failed" and hasattr(error.__cause__, "status_code")
            if self._settings.models is None or not reachable:
                return Health(ok=False, reason=str(error), details={"code": error.code})
        return Health(ok=True, details=details)

    async def complete(self, prompt: Prompt) -> Completion:
        model = await self._checked(prompt)
        body = request_body(prompt, model, self._settings.limit_field())
        began = time.monotonic()
        try:
            answer = await self._client_for(prompt).chat.completions.create(**body)
            choices = tuple(
                choice_of(index, wire)
                for index, wire in enumerate(sorted(answer.choices, key=lambda choice: choice.index or 0))
            )
        except Exception as exc:
            raise translated(exc, model) from exc
        usage = usage_of(answer.usage, prompt, text_of(choices))
        return completion_of(
            answer,
            choices,
            prompt=prompt,
            model=model,
            usage=usage,
            cost=self._cost(usage),
            began=began,
            keep_raw=self._settings.keep_raw_response,
        )

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        model = await self._checked(prompt)
        body = request_body(prompt, model, self._settings.limit_field())
        converter = ChunkConverter(prompt, model)
        try:
            stream: Any = await self._client_for(prompt).chat.completions.create(
                **body, stream=True, stream_options={"include_usage": True}
            )
            async with stream:
                async for chunk in stream:
                    for event in converter.events(chunk):
                        yield event
            converter.require_end()
        except Exception as exc:
            raise translated(exc, model) from exc
        usage = usage_of(converter.usage, prompt, converter.text)
        for event in converter.closing_events(usage, self._cost(usage)):
            yield event

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
            listed = await self._opened.with_options(max_retries=retries, timeout=10.0).models.list()
        except Exception as exc:
            raise translated(exc) from exc
        return tuple(model.id for model in listed.data or ())

    def _cost(self, usage: Usage) -> float | None:
        input_price, output_price = self._settings.cost_per_million_input, self._settings.cost_per_million_output
        if input_price is None or output_price is None:
            return None
        return price(usage, input_price, output_price)
