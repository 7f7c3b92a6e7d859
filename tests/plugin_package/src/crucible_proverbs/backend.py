"""``ProverbBackend``: words are its tokens, a seed chooses the proverb."""

import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from crucible import (
    Backend,
    BackendUnavailable,
    Capabilities,
    Choice,
    Completion,
    FinishReason,
    Health,
    InvalidRequest,
    Message,
    Options,
    Prompt,
    StreamEvent,
    Usage,
    events_of,
    read_record,
)
from crucible.values.record import Record

PROVERBS = (
    "Slow and steady wins the race.",
    "A stitch in time saves nine.",
    "Many hands make light work.",
)


class ProverbSettings(Record):
    """``file``: proverbs of your own, one a line."""

    file: Path | None = None


class ProverbBackend(Backend):
    """Proverbs for every prompt."""

    name = "proverbs"

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self._settings = read_record(ProverbSettings, dict(config or {}), backend=self.name)
        self._proverbs: tuple[str, ...] = ()

    async def open(self) -> None:
        file = self._settings.file
        try:
            self._proverbs = PROVERBS if file is None else tuple(file.read_text().splitlines())
        except OSError as exc:
            raise BackendUnavailable(f"the proverbs cannot be read: {exc}", backend=self.name) from exc
        if not self._proverbs:
            raise InvalidRequest.of("file", str(file), "it must hold at least one proverb")

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            backend_id=self.name,
            provider="crucible-proverbs",
            models=("proverbs-en",),
            default_model="proverbs-en",
            supports_streaming=True,
            supports_n=True,
            options=("max_tokens", "stop", "seed"),
        )

    async def health_check(self) -> Health:
        return Health(ok=bool(self._proverbs), reason=None if self._proverbs else "there are no proverbs")

    async def complete(self, prompt: Prompt) -> Completion:
        await self.check_prompt(prompt)
        chosen = random.Random(prompt.options.seed)
        choices = tuple(self._choice(index, chosen, prompt.options) for index in range(prompt.options.n))
        asked = sum(len(message.text().split()) for message in prompt.conversation())
        said = sum(len(choice.message.text().split()) for choice in choices)
        return Completion(
            choices=choices,
            model="proverbs-en",
            usage=Usage.of(asked, said),
            request_id=prompt.request_id,
            trace_id=prompt.trace_id,
        )

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        for event in events_of(await self.complete(prompt), piece_chars=8):
            yield event

    def _choice(self, index: int, chosen: random.Random, options: Options) -> Choice:
        words = chosen.choice(self._proverbs).split()
        cut = words if options.max_tokens is None else words[: options.max_tokens]
        text, finish = " ".join(cut), FinishReason.STOP if cut == words else FinishReason.LENGTH
        for stop in options.stop:
            if stop in text:
                text, finish = text.partition(stop)[0], FinishReason.STOP
        return Choice(index=index, message=Message(role="assistant", content=text), finish_reason=finish)
