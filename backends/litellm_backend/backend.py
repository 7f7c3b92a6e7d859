"""``LiteLLMBackend``: completions from the long tail of providers, in OpenAI's form, which LiteLLM speaks."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from pydantic import JsonValue

from backends.litellm_backend.accounting import cost_of, counted
from backends.litellm_backend.errors import translated
from backends.litellm_backend.library import closed, opened
from backends.litellm_backend.models import ModelFacts, capabilities_of, facts_of
from backends.litellm_backend.requests import (
    arguments,
    missing_credentials,
    refuse_downloads,
    require_credential,
)
from backends.litellm_backend.server_check import reach
from backends.litellm_backend.settings import BACKEND, LiteLLMSettings
from backends.openai.answers import Chunks, choice_of
from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.durations import elapsed_ms
from crucible.errors import BackendUnavailable, CallerError, InvalidRequest
from crucible.parsing import read_record
from crucible.prompt import Prompt
from crucible.requirements import require
from crucible.stream import DoneEvent, StartEvent, StreamEvent, UsageEvent, events_of


class LiteLLMBackend(Backend):
    """Any provider. ``config``: ``LiteLLMSettings``.

    ``capabilities`` says what at least one of the models can do; a prompt is held against what its own model can.
    """

    name: ClassVar[str] = BACKEND
    requires: ClassVar[tuple[str, ...]] = ("litellm",)

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = settings = read_record(LiteLLMSettings, dict(config or {}), backend=BACKEND)
        if settings.default_model is not None and settings.models and settings.default_model not in settings.models:
            raise InvalidRequest.of(
                "default_model", settings.default_model, f"models lists {settings.models}", backend=BACKEND
            )
        self._library: Any = None
        self._facts: dict[str, ModelFacts] = {}

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
        """With ``api_base``, whether its server answers; else only whether the keys of the models are there."""
        facts = [self._facts_of(model) for model in self._settings.models]
        missing = sorted({name for one in facts for name in missing_credentials(self._opened, one, self._settings)})
        if missing:
            return Health(ok=False, reason=f"set {', '.join(missing)}", details={"missing": [*missing]})
        if self._settings.api_base is not None:
            return await reach(self._settings.api_base, self._settings.key())
        return Health(ok=True, details={"models": list(self._settings.models), "checked": "keys only"})

    async def complete(self, prompt: Prompt) -> Completion:
        facts = await self._checked(prompt)
        began = time.monotonic()
        try:
            answer = await self._opened.acompletion(**arguments(prompt, facts, self._settings))
            choices = tuple(choice_of(index, wire) for index, wire in enumerate(answer.choices))
        except Exception as exc:
            raise translated(exc, facts.model, self._settings.key()) from None
        wire = getattr(answer, "usage", None)
        usage = counted(wire, prompt, "".join(choice.message.text() for choice in choices))
        return Completion(
            choices=choices,
            model=answer.model or facts.model,
            usage=usage,
            latency_ms=elapsed_ms(began),
            request_id=prompt.request_id or answer.id,
            trace_id=prompt.trace_id,
            cost=cost_of(self._opened, facts, self._settings, wire, usage),
            raw_response=answer.model_dump(mode="json") if self._settings.keep_raw_response else None,
        )

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        """The answer as it is generated; several answers (``n``) come whole, since LiteLLM's streams end them all
        with the first."""
        facts = await self._checked(prompt)
        if prompt.options.n > 1:
            for event in events_of(await self.complete(prompt)):
                yield event
            return
        began, first_ms, chunks, started = time.monotonic(), None, Chunks(), False
        stream: Any = None
        try:
            stream = await self._opened.acompletion(
                **arguments(prompt, facts, self._settings), stream=True, stream_options={"include_usage": True}
            )
            # Where the provider counts nothing, LiteLLM would, and fetch the prompt's images for that.
            stream.count_prompt_tokens = _nothing
            async for chunk in stream:
                if not started:
                    started = True
                    yield StartEvent(
                        seq=0,
                        model=chunk.model or facts.model,
                        request_id=prompt.request_id or chunk.id,
                        trace_id=prompt.trace_id,
                    )
                for event in chunks.events(chunk):
                    if event.type == "end":
                        _require_an_end(stream)
                    first_ms = first_ms or elapsed_ms(began)
                    yield event
            chunks.finish()
        except Exception as exc:
            raise translated(exc, facts.model, self._settings.key()) from None
        finally:
            if stream is not None:
                await stream.aclose()
        wire = chunks.usage if _counted_by_provider(stream) else None
        usage = counted(wire, prompt, chunks.said)
        yield UsageEvent(seq=chunks.seq + 1, usage=usage)
        yield DoneEvent(
            seq=chunks.seq + 2,
            latency_ms=elapsed_ms(began),
            time_to_first_token_ms=first_ms,
            cost=cost_of(self._opened, facts, self._settings, wire, usage),
        )

    async def _checked(self, prompt: Prompt) -> ModelFacts:
        """What the prompt's model can do, having refused what it cannot, before anything is sent."""
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


def _require_an_end(stream: Any) -> None:
    """LiteLLM ends a stream that broke off with a ``stop`` of its own."""
    if (
        getattr(stream, "received_finish_reason", None) or getattr(stream, "intermittent_finish_reason", None)
    ) is None:
        raise BackendUnavailable("the stream broke off before the answer had ended", backend=BACKEND)


def _nothing() -> int:
    return 0


def _counted_by_provider(stream: Any) -> bool:
    return any(getattr(chunk, "usage", None) is not None for chunk in getattr(stream, "chunks", ()))
