"""``LiteLLMBackend``: completions from LiteLLM's providers, in OpenAI's format."""

import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from pydantic import JsonValue

from backends.litellm_backend.accounting import cost_of, counted, data_of, usage_object
from backends.litellm_backend.errors import translated
from backends.litellm_backend.library import closed, opened
from backends.litellm_backend.models import ModelFacts, capabilities_of, facts_of
from backends.litellm_backend.requests import (
    arguments,
    missing_credentials,
    refuse_downloads,
    require_credential,
)
from backends.litellm_backend.server_check import check_server
from backends.litellm_backend.settings import BACKEND, MODEL_VARIABLE, LiteLLMSettings
from backends.litellm_backend.transport import Exchange
from backends.openai.answers import choices_of, completion_of, text_of, usage_of
from backends.openai.chunks import ChunkConverter
from backends.openai.errors import translated as translated_kept
from backends.openai.streams import parsed, stream_events
from backends.openai.wire import read_answer
from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion, Usage
from crucible.errors import BackendUnavailable, CallerError, CrucibleError, InvalidRequest
from crucible.prompt import Prompt
from crucible.requirements import require
from crucible.stream import StreamEvent, events_of
from crucible.values.record_reader import read_record


class LiteLLMBackend(Backend):
    """A backend for all of LiteLLM's providers. ``config``: see ``LiteLLMSettings``.

    ``capabilities`` is the union over the models; a prompt is checked against its own model.
    """

    name: ClassVar[str] = BACKEND
    requires: ClassVar[tuple[str, ...]] = ("litellm",)

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = settings = read_record(LiteLLMSettings, dict(config or {}), backend=BACKEND)
        if settings.default_model is not None and settings.models and settings.default_model not in settings.models:
            raise InvalidRequest.of(
                "default_model", settings.default_model, f"models lists {settings.models}", backend=BACKEND
            )
        settings.key()
        self._library: Any = None
        self._facts: dict[str, ModelFacts] = {}

    @classmethod
    def configured_model(cls) -> str | None:
        return os.environ.get(MODEL_VARIABLE) or None

    async def open(self) -> None:
        if self._library is None:
            self._library = await opened()

    async def close(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            await closed(library)

    async def capabilities(self) -> Capabilities:
        return capabilities_of([self._facts_of(model) for model in self._settings.models], self._settings)

    async def check_prompt(self, prompt: Prompt) -> None:
        await self._checked(prompt)

    async def health_check(self) -> Health:
        """Check the models' keys and, if ``api_base`` is set, that its server answers."""
        models = [self._facts_of(model) for model in self._settings.models]
        missing = sorted(
            {name for facts in models for name in missing_credentials(self._opened, facts, self._settings)}
        )
        if missing:
            return Health(ok=False, reason=f"set {', '.join(missing)}", details={"missing": [*missing]})
        if self._settings.api_base is not None:
            return await check_server(self._settings.api_base, self._settings.key())
        return Health(ok=True, details={"models": list(self._settings.models), "checked": "keys only"})

    async def complete(self, prompt: Prompt) -> Completion:
        facts = await self._checked(prompt)
        began = time.monotonic()
        exchange = self._exchange(facts)
        try:
            with exchange.current():
                response = await self._opened.acompletion(**arguments(prompt, facts, self._settings))
            if exchange.error is not None:
                raise exchange.error
            if exchange.content is not None:
                return self._kept(parsed(exchange.content), prompt, facts, began)
            answer = read_answer(data_of(response), facts.model, backend=BACKEND)
            choices = choices_of(answer, BACKEND)
        except Exception as exc:
            raise self._error(exc, facts, exchange) from None
        wire = getattr(response, "usage", None)
        usage = counted(answer.reported_usage, prompt, text_of(choices))
        return completion_of(
            answer,
            choices,
            prompt=prompt,
            model=facts.model,
            usage=usage,
            cost=cost_of(self._opened, facts, self._settings, wire, usage),
            began=began,
            raw=response.model_dump(mode="json") if self._settings.keep_raw_response else None,
        )

    def _exchange(self, facts: ModelFacts, *, streams: bool = False) -> Exchange:
        return Exchange(self._settings.max_response_bytes, keeps=facts.openai_format, streams=streams)

    def _kept(self, data: Any, prompt: Prompt, facts: ModelFacts, began: float) -> Completion:
        """Convert an answer in OpenAI's form as the openai backend does, without LiteLLM's changes."""
        answer = read_answer(data, facts.model, backend=BACKEND)
        choices = choices_of(answer, BACKEND)
        usage, cost = self._usage_and_cost(answer.reported_usage, prompt, text_of(choices), facts)
        return completion_of(
            answer,
            choices,
            prompt=prompt,
            model=facts.model,
            usage=usage,
            cost=cost,
            began=began,
            raw=data if self._settings.keep_raw_response else None,
        )

    def _usage_and_cost(
        self, wire: Any, prompt: Prompt, text: str, facts: ModelFacts
    ) -> tuple[Usage, float | None]:
        usage = usage_of(wire, prompt, text)
        library = self._opened
        return usage, cost_of(library, facts, self._settings, usage_object(library, usage), usage)

    @staticmethod
    def _error(error: Exception, facts: ModelFacts, exchange: Exchange) -> CrucibleError:
        if exchange.error is None and exchange.content is None and exchange.response is None:
            return translated(error, facts.model)
        found = translated_kept(error, facts.model)
        found.backend = BACKEND
        return found

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        """Stream the answer. Several answers (``n``) arrive whole, because LiteLLM's streams end with the first."""
        facts = await self._checked(prompt)
        if prompt.options.n > 1:
            for event in events_of(await self.complete(prompt)):
                yield event
            return
        converter = ChunkConverter(prompt, facts.model, backend=BACKEND)
        stream: Any = None
        last_chunk: Any = None
        exchange = self._exchange(facts, streams=True)
        began = time.monotonic()
        try:
            with exchange.current():
                stream = await self._opened.acompletion(
                    **arguments(prompt, facts, self._settings), stream=True, stream_options={"include_usage": True}
                )
            if exchange.response is not None:
                async for event in stream_events(
                    exchange.blocks(),
                    converter,
                    whole=lambda data: self._kept(data, prompt, facts, began),
                    usage=lambda wire, text: self._usage_and_cost(wire, prompt, text, facts),
                ):
                    yield event
                return
            # otherwise LiteLLM counts the tokens of providers that do not, and downloads the prompt's images for it
            stream.count_prompt_tokens = _no_tokens
            async for chunk in stream:
                last_chunk = chunk
                for event in converter.events(data_of(chunk)):
                    if event.type == "end":
                        _require_end(stream)
                    yield event
            for event in converter.end_of_stream(complete=False):
                yield event
        except Exception as exc:
            error = self._error(exc, facts, exchange)
            error.details.update(converter.received())
            raise error from None
        finally:
            await exchange.close()
            if stream is not None:
                await stream.aclose()
        is_counted = _counted_by_provider(stream)
        wire = getattr(last_chunk, "usage", None) if is_counted else None
        usage = counted(converter.usage if is_counted else None, prompt, converter.text)
        cost = cost_of(self._opened, facts, self._settings, wire, usage)
        for event in converter.closing_events(usage, cost):
            yield event

    async def _checked(self, prompt: Prompt) -> ModelFacts:
        """Check a prompt before anything is sent; returns the facts of its model."""
        capabilities = await self.capabilities()
        require(prompt, capabilities)
        facts = self._facts_of(prompt.options.model or capabilities.default_model or "")
        require(prompt, capabilities_of([facts], self._settings.model_copy(update={"default_model": None})))
        refuse_downloads(prompt, facts)
        require_credential(self._opened, facts, self._settings)
        return facts

    def _facts_of(self, model: str) -> ModelFacts:
        if model not in self._facts:
            self._facts[model] = facts_of(self._opened, model, self._settings)
        return self._facts[model]

    @property
    def _opened(self) -> Any:
        if self._library is None:
            raise CallerError("open the backend first: async with backend: ...", backend=BACKEND)
        return self._library


def _require_end(stream: Any) -> None:
    """Raise BackendUnavailable if the stream broke off, in which case LiteLLM adds a ``stop`` of its own."""
    if (
        getattr(stream, "received_finish_reason", None) or getattr(stream, "intermittent_finish_reason", None)
    ) is None:
        raise BackendUnavailable("the stream broke off before the answer had ended", backend=BACKEND)


def _no_tokens() -> int:
    return 0


def _counted_by_provider(stream: Any) -> bool:
    return any(getattr(chunk, "usage", None) is not None for chunk in getattr(stream, "chunks", ()))
