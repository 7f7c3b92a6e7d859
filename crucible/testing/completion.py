"""The contract test suite of all backends: claimed capabilities work, others are refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from crucible.backend import Backend, Health
from crucible.capabilities import Capabilities
from crucible.completion import Completion, FinishReason
from crucible.errors import CallerError, InvalidRequest, Unsupported
from crucible.options import Options, ResponseFormat
from crucible.prompt import ImagePart, Message, Prompt, Role, TextPart, Tool
from crucible.stream import DoneEvent, StartEvent, StreamEvent, collect, fold
from crucible.testing.loop import run_opened

# a red pixel
_THOUGHT = Message(role=Role.ASSISTANT, content="Hello.", thinking="They greet me.")
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
_WEATHER = Tool(name="weather", parameters={"type": "object", "properties": {"town": {"type": "string"}}})


class BackendContract:
    """The suite. Subclass it with a ``backend`` fixture that returns an unopened backend."""

    model: str | None = None
    """The model of the prompts; ``None`` for the backend's default."""

    max_tokens = 12

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test."""
        raise NotImplementedError("define a fixture named backend")

    def prompt(self, /, text: str = "Say hello.", **options: Any) -> Prompt:
        """Create a short prompt with these options."""
        settings = {"model": self.model, "max_tokens": self.max_tokens, **options}
        return Prompt(messages=({"role": "user", "content": text},), options=Options.model_validate(settings))

    def claimed(self, backend: Backend) -> Capabilities:
        """Return the backend's capabilities."""
        return run_opened(backend, lambda opened: opened.capabilities())

    def test_capabilities_are_a_record_that_survives_json(self, backend: Backend) -> None:
        """Capabilities have the registered name of the backend and round-trip through JSON."""
        claimed = self.claimed(backend)

        assert isinstance(claimed, Capabilities)
        assert claimed.backend_id == type(backend).name
        assert Capabilities.model_validate_json(claimed.model_dump_json()) == claimed

    def test_the_default_model_is_one_of_the_models(self, backend: Backend) -> None:
        """The default model is listed, unless other models are accepted."""
        claimed = self.claimed(backend)

        if claimed.default_model is not None and claimed.models and not claimed.accepts_other_models:
            assert claimed.default_model in claimed.models

    def test_health_is_an_answer_not_an_exception(self, backend: Backend) -> None:
        """A backend that can serve is healthy."""
        health = run_opened(backend, lambda opened: opened.health_check())

        assert isinstance(health, Health)
        assert health.ok, health.reason

    def test_closing_twice_is_harmless(self, backend: Backend) -> None:
        """Closing a backend again raises no error."""

        async def body(opened: Backend) -> None:
            await opened.close()

        run_opened(backend, body)

    def test_a_prompt_is_answered(self, backend: Backend) -> None:
        """The completion has an answer, its finish reason, the model's name, and consistent usage."""
        prompt = self.prompt()
        completion = run_opened(backend, lambda opened: opened.complete(prompt))

        assert isinstance(completion, Completion)
        assert len(completion.choices) == 1
        assert completion.choices[0].finish_reason in set(FinishReason) - {FinishReason.ERROR}
        assert completion.model
        usage = completion.usage
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert Completion.model_validate_json(completion.model_dump_json()) == completion

    def test_the_ids_of_a_prompt_come_back(self, backend: Backend) -> None:
        """The completion has the ``trace_id`` of the prompt."""
        prompt = self.prompt().model_copy(update={"trace_id": "trace-7"})

        assert run_opened(backend, lambda opened: opened.complete(prompt)).trace_id == "trace-7"

    def test_max_tokens_is_a_limit(self, backend: Backend) -> None:
        """An answer does not exceed ``max_tokens``, and a truncated one has finish reason length."""
        prompt = self.prompt(max_tokens=2)
        completion = run_opened(backend, lambda opened: opened.complete(prompt))

        assert completion.usage is not None
        assert completion.usage.completion_tokens <= 2
        assert completion.choices[0].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)

    def test_an_unknown_model_is_refused(self, backend: Backend) -> None:
        """It is a ``CallerError`` that names the model."""
        prompt = self.prompt(model="no-such-model-anywhere")
        with pytest.raises(CallerError) as caught:
            run_opened(backend, lambda opened: opened.complete(prompt))

        assert "no-such-model-anywhere" in str(caught.value)

    def test_a_prompt_without_messages_is_refused(self, backend: Backend) -> None:
        """It is an ``InvalidRequest`` about the messages."""
        empty = Prompt(options=Options(model=self.model))
        with pytest.raises(InvalidRequest, match="messages"):
            run_opened(backend, lambda opened: opened.complete(empty))

    def test_a_stream_folds_to_a_completion(self, backend: Backend) -> None:
        """Events count from 0 without gaps, begin with start, and end with done. With a seed, their fold equals the
        result of ``complete``."""
        claimed = self.claimed(backend)
        if not claimed.supports_streaming:
            self.refused(backend, self.prompt(stream=True), "options.stream")
            return
        prompt = self.prompt(**self._deterministic_options(claimed))

        async def body(opened: Backend) -> tuple[list[StreamEvent], Completion]:
            events = [event async for event in opened.stream(prompt)]
            return events, await opened.complete(prompt)

        events, completion = run_opened(backend, body)

        assert [event.seq for event in events] == list(range(len(events)))
        assert isinstance(events[0], StartEvent)
        assert isinstance(events[-1], DoneEvent)
        folded = fold(events)
        assert folded.usage is not None
        if claimed.options is None or "seed" in claimed.options:
            assert folded.choices == completion.choices
            assert folded.usage == completion.usage
        assert folded.model == completion.model

    def test_an_unanswerable_stream_raises(self, backend: Backend) -> None:
        """``stream`` raises the errors of ``complete``."""
        if not self.claimed(backend).supports_streaming:
            return
        prompt = self.prompt(model="no-such-model-anywhere")
        with pytest.raises(CallerError):
            run_opened(backend, lambda opened: collect(opened.stream(prompt)))

    def test_seeds_repeat(self, backend: Backend) -> None:
        """Equal seeds give equal answers."""
        claimed = self.claimed(backend)
        if claimed.options is not None and "seed" not in claimed.options:
            self.refused(backend, self.prompt(seed=1), "options.seed")
            return
        prompt = self.prompt(**self._deterministic_options(claimed))

        async def body(opened: Backend) -> list[str]:
            return [(await opened.complete(prompt)).text for _ in range(2)]

        first, second = run_opened(backend, body)

        assert first == second

    def test_n_answers(self, backend: Backend) -> None:
        """``n`` answers if supported; a refusal otherwise."""
        prompt = self.prompt(n=3)
        if not self.claimed(backend).supports_n:
            self.refused(backend, prompt, "options.n")
            return
        completion = run_opened(backend, lambda opened: opened.complete(prompt))

        assert [choice.index for choice in completion.choices] == [0, 1, 2]

    def test_logprobs(self, backend: Backend) -> None:
        """A log probability of at most 0 for each generated token if supported; a refusal otherwise."""
        prompt = self.prompt(logprobs=True)
        if not self.claimed(backend).supports_logprobs:
            self.refused(backend, prompt, "options.logprobs")
            return
        logprobs = run_opened(backend, lambda opened: opened.complete(prompt)).choices[0].logprobs

        assert logprobs
        assert all(item.logprob is None or item.logprob <= 1e-6 for item in logprobs)

    def test_stop_sequences(self, backend: Backend) -> None:
        """An answer contains no stop sequence."""
        claimed = self.claimed(backend)
        if claimed.options is not None and "stop" not in claimed.options:
            self.refused(backend, self.prompt(stop=("x",)), "options.stop")
            return
        deterministic = self._deterministic_options(claimed)
        plain = run_opened(backend, lambda opened: opened.complete(self.prompt(**deterministic))).text
        stop = plain[1:2] or "x"
        cut = run_opened(backend, lambda opened: opened.complete(self.prompt(stop=(stop,), **deterministic))).text

        assert stop not in cut

    @pytest.mark.parametrize(
        ("flag", "field", "update"),
        [
            ("supports_tools", "tools", lambda prompt: {"tools": (_WEATHER,)}),
            ("supports_vision", "content", lambda prompt: {"messages": (_image_message(),)}),
            (
                "supports_json_mode",
                "options.response_format",
                lambda prompt: _option(prompt, response_format="json"),
            ),
            (
                "supports_json_schema",
                "options.response_format",
                lambda prompt: _option(
                    prompt, response_format=ResponseFormat.JSON_SCHEMA, json_schema={"type": "object"}
                ),
            ),
            (
                "supports_extended_thinking",
                "options.extended_thinking",
                lambda prompt: _option(prompt, extended_thinking=True),
            ),
            (
                "supports_thinking_history",
                "messages[1].thinking",
                lambda prompt: {"messages": (*prompt.messages, _THOUGHT, *prompt.messages)},
            ),
            (
                "supports_caching",
                "options.cache_control",
                lambda prompt: _option(prompt, cache_control="ephemeral"),
            ),
        ],
        ids=["tools", "vision", "json", "json-schema", "thinking", "thinking-history", "caching"],
    )
    def test_a_capability_is_true_or_refused(
        self, backend: Backend, flag: str, field: str, update: Callable[[Prompt], dict[str, object]]
    ) -> None:
        """A claimed capability is answered; any other is refused, with the names of the field and the backend."""
        plain = self.prompt()
        prompt = plain.model_copy(update=update(plain))
        if not getattr(self.claimed(backend), flag):
            self.refused(backend, prompt, field)
            return
        completion = run_opened(backend, lambda opened: opened.complete(prompt))

        assert completion.choices
        if flag == "supports_json_schema" and completion.choices[0].finish_reason is FinishReason.STOP:
            assert isinstance(json.loads(completion.text), dict)

    def refused(self, backend: Backend, prompt: Prompt, field: str) -> None:
        """Assert that ``complete`` and ``stream`` refuse the prompt and name the field and the backend."""
        for call in (lambda opened: opened.complete(prompt), lambda opened: collect(opened.stream(prompt))):
            with pytest.raises(Unsupported) as caught:
                run_opened(backend, call)
            assert field in str(caught.value)
            assert caught.value.backend == type(backend).name

    @staticmethod
    def _deterministic_options(claimed: Capabilities) -> dict[str, Any]:
        known = claimed.options
        return {
            name: value for name, value in {"seed": 7, "temperature": 0.0}.items() if known is None or name in known
        }


def _image_message() -> Message:
    return Message(
        role=Role.USER,
        content=(TextPart(text="What is this?"), ImagePart(base64=_PIXEL, media_type="image/png")),
    )


def _option(prompt: Prompt, **values: object) -> dict[str, object]:
    return {"options": Options.model_validate({**prompt.options.model_dump(), **values})}
