"""``LiteLLMBackend``: completions from the long tail of providers, in OpenAI's form, which LiteLLM speaks."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, get_args

from pydantic import JsonValue

from backends.litellm.errors import translated
from backends.litellm.settings import BACKEND, LiteLLMSettings
from backends.openai.answers import Chunks, choice_of, usage_of
from backends.openai.requests import request_body
from backends.openai.settings import Claim, Option
from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion, Usage
from crucible.errors import CallerError, Unsupported
from crucible.prompt import Prompt
from crucible.reading import read_record
from crucible.requirements import require
from crucible.stream import DoneEvent, StartEvent, StreamEvent, UsageEvent


class LiteLLMBackend(Backend):
    """Models are named as LiteLLM names them (``anthropic/...``). ``config``: ``LiteLLMSettings``."""

    name: ClassVar[str] = BACKEND

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(LiteLLMSettings, dict(config or {}), backend=BACKEND)
        self._library: Any = None

    async def open(self) -> None:
        # The import takes seconds.
        self._library = await asyncio.to_thread(_import_litellm)

    async def close(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            await library.close_litellm_async_clients()

    async def capabilities(self) -> Capabilities:
        settings = self._settings
        claims = {claim: claim not in settings.without for claim in get_args(Claim)}
        return Capabilities(
            backend_id=BACKEND,
            provider=BACKEND,
            models=settings.models,
            default_model=settings.models[0] if settings.models else None,
            accepts_other_models=True,
            token_streaming=claims["supports_streaming"],
            options=(
                *(one for one in get_args(Option) if one not in settings.without_options),
                "timeout_ms",
                "extra",
            ),
            **claims,
        )

    async def health_check(self) -> Health:
        # There is no one service to ask.
        return Health(ok=True, details={"models": list(self._settings.models)})

    async def complete(self, prompt: Prompt) -> Completion:
        model = await self._checked(prompt)
        began = time.monotonic()
        try:
            answer = await self._opened.acompletion(**self._arguments(prompt, model))
            choices = tuple(choice_of(index, wire) for index, wire in enumerate(answer.choices))
        except Exception as exc:
            raise translated(exc, model) from exc
        usage = _usage(answer.usage, prompt, "".join(choice.message.text() for choice in choices))
        return Completion(
            choices=choices,
            model=answer.model or model,
            usage=usage,
            latency_ms=_ms_since(began),
            request_id=prompt.request_id or answer.id,
            trace_id=prompt.trace_id,
            cost=getattr(answer, "_hidden_params", {}).get("response_cost"),
            raw_response=answer.model_dump(mode="json") if self._settings.keep_raw_response else None,
        )

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        model = await self._checked(prompt)
        began, first_ms, chunks, started = time.monotonic(), None, Chunks(), False
        try:
            stream: Any = await self._opened.acompletion(
                **self._arguments(prompt, model), stream=True, stream_options={"include_usage": True}
            )
            async for chunk in stream:
                if not started:
                    started = True
                    request_id = prompt.request_id or chunk.id
                    yield StartEvent(
                        seq=0, model=chunk.model or model, request_id=request_id, trace_id=prompt.trace_id
                    )
                for event in chunks.events(chunk):
                    first_ms = first_ms or _ms_since(began)
                    yield event
            chunks.finish()
        except Exception as exc:
            raise translated(exc, model) from exc
        yield UsageEvent(seq=chunks.seq + 1, usage=_usage(chunks.usage, prompt, chunks.said))
        yield DoneEvent(seq=chunks.seq + 2, latency_ms=_ms_since(began), time_to_first_token_ms=first_ms)

    async def _checked(self, prompt: Prompt) -> str:
        capabilities = await self.capabilities()
        require(prompt, capabilities)
        return prompt.options.model or capabilities.default_model or ""

    def _arguments(self, prompt: Prompt, model: str) -> dict[str, Any]:
        settings, limit_ms = self._settings, prompt.options.timeout_ms
        arguments = request_body(prompt, model, "max_tokens")
        arguments.update(
            # An option that the provider lacks is refused, never dropped.
            drop_params=False,
            timeout=settings.timeout_s if limit_ms is None else limit_ms / 1000,
            num_retries=settings.max_retries if limit_ms is None else 0,
        )
        if settings.api_base is not None:
            arguments["api_base"] = settings.api_base
        if settings.api_key is not None:
            arguments["api_key"] = settings.api_key.get_secret_value()
        return arguments

    @property
    def _opened(self) -> Any:
        if self._library is None:
            raise CallerError("open the backend first: async with backend: ...", backend=BACKEND)
        return self._library


def _usage(wire: Any, prompt: Prompt, said: str) -> Usage:
    """LiteLLM writes 0 for what a provider did not say."""
    usage = usage_of(wire, prompt, said)
    return usage.model_copy(
        update={"thinking_tokens": usage.thinking_tokens or None, "cached_tokens": usage.cached_tokens or None}
    )


def _import_litellm() -> Any:
    # Otherwise the import fetches a table of prices from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError as exc:
        raise Unsupported(
            "the package litellm is not installed; pip install 'nsai-work[litellm]'", backend=BACKEND
        ) from exc
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


def _ms_since(began: float) -> float:
    return (time.monotonic() - began) * 1000
