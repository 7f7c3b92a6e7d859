"""Capabilities come from LiteLLM's tables; unsupported prompts are refused before anything is sent."""

from typing import Any

import pytest

from backends.litellm_backend import LiteLLMBackend
from backends.litellm_backend.accounting import cost_of, counted
from backends.litellm_backend.models import facts_of
from backends.litellm_backend.settings import LiteLLMSettings
from crucible import AuthenticationFailed, CallerError, CrucibleError, InvalidRequest, Prompt, Unsupported, collect
from crucible.testing.loop import run_opened

# What LiteLLM warns of on import or use is LiteLLM's.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("library")]

CLAUDE = "anthropic/claude-sonnet-4-5"
IMAGE = {"type": "image", "url": "https://example.org/a.png"}


def asked(model: str | None, **options: Any) -> Prompt:
    """A short prompt."""
    options = {"model": model, **options}
    return Prompt.model_validate({"messages": [{"role": "user", "content": "Hi"}], "options": options})


def test_facts_come_from_the_tables(library: Any) -> None:
    """A listed model: capabilities, context length and prices."""
    facts = facts_of(library, "openai/gpt-4o", LiteLLMSettings())

    assert facts.provider == "openai"
    assert {"supports_vision", "supports_tools", "supports_json_schema", "supports_logprobs"} <= facts.claims
    assert facts.context == 128_000
    assert facts.cost_per_million_input == pytest.approx(2.5)


def test_a_model_of_ones_own_has_no_price_and_nothing_rare(library: Any) -> None:
    """An unknown price is not 0, and images are claimed only by the settings."""
    plain = facts_of(library, "hosted_vllm/mine", LiteLLMSettings())
    told = facts_of(library, "hosted_vllm/mine", LiteLLMSettings(supports=["supports_vision"]))

    assert plain.cost_per_million_input is None
    assert "supports_tools" in plain.claims
    assert "supports_vision" not in plain.claims
    assert "supports_vision" in told.claims


def test_capabilities_are_what_one_of_the_models_can() -> None:
    """Each prompt is checked against its own model."""
    backend = LiteLLMBackend({"models": [CLAUDE, "openai/gpt-4o"], "api_key": "sk-0123456789"})

    async def body(opened: LiteLLMBackend) -> None:
        claimed = await opened.capabilities()
        assert claimed.default_model == CLAUDE
        assert claimed.supports_logprobs
        assert claimed.context_lengths["openai/gpt-4o"] == 128_000
        assert claimed.cost_per_million_input is None
        await opened.check_prompt(asked("openai/gpt-4o", logprobs=True))
        with pytest.raises(Unsupported, match=r"options\.logprobs"):
            await opened.check_prompt(asked(CLAUDE, logprobs=True))

    run_opened(backend, body)


@pytest.mark.parametrize(
    ("prompt", "kind", "said"),
    [
        (asked(CLAUDE, seed=1), Unsupported, r"options\.seed"),
        (asked(CLAUDE, n=2), Unsupported, r"options\.n"),
        (asked(CLAUDE, extra={"x": 1}), Unsupported, r"options\.extra"),
        (asked(CLAUDE, max_tokens=10**9), InvalidRequest, r"options\.max_tokens"),
        (asked(CLAUDE, extended_thinking=True), Unsupported, r"options\.extended_thinking"),
        (asked("no-such-model-anywhere"), InvalidRequest, "no-such-model-anywhere"),
        (asked(None), InvalidRequest, r"options\.model"),
        (
            Prompt.model_validate(
                {**asked(CLAUDE).model_dump(), "messages": [{"role": "user", "content": [IMAGE]}]}
            ),
            Unsupported,
            r"messages\[0\]\.content\[0\]",
        ),
    ],
    ids=["seed", "n", "extra", "max_tokens", "thinking", "unknown", "none", "image by address"],
)
def test_what_a_model_lacks_is_refused(prompt: Prompt, kind: type[CrucibleError], said: str) -> None:
    """Naming the field; by ``complete`` and ``stream`` alike. (A request sent would break the loopback rule.)"""
    backend = LiteLLMBackend({"api_key": "sk-0123456789"})

    for ask in (lambda opened: opened.complete(prompt), lambda opened: collect(opened.stream(prompt))):
        with pytest.raises(kind, match=said) as caught:
            run_opened(backend, ask)
        assert caught.value.backend == "litellm"


def test_a_missing_key_is_named_before_anything_is_sent() -> None:
    """By the variable that LiteLLM reads for the provider."""
    backend = LiteLLMBackend({"models": ["groq/llama-3.3-70b-versatile"]})

    with pytest.raises(AuthenticationFailed, match="GROQ_API_KEY"):
        run_opened(backend, lambda opened: opened.complete(asked(None)))
    health = run_opened(backend, lambda opened: opened.health_check())
    assert not health.ok
    assert "GROQ_API_KEY" in (health.reason or "")


def test_the_key_of_a_provider_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of each provider is in its own variable."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk-0123456789")
    backend = LiteLLMBackend({"models": ["groq/llama-3.3-70b-versatile"]})

    assert run_opened(backend, lambda opened: opened.health_check()).ok


def test_an_unopened_backend_says_so() -> None:
    """It does not open itself."""
    import asyncio

    with pytest.raises(CallerError, match="open"):
        asyncio.run(LiteLLMBackend({"models": [CLAUDE]}).capabilities())


def test_another_kind_of_credential_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider's token, its key is not reported as missing."""
    backend = LiteLLMBackend({"models": [CLAUDE]})
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "0123456789")

    assert run_opened(backend, lambda opened: opened.health_check()).ok


@pytest.mark.parametrize(
    ("model", "dollars"),
    [("openai/gpt-4o", (500 * 2.5 + 500 * 1.25 + 100 * 10) / 1e6), ("hosted_vllm/mine", None)],
    ids=["listed", "not listed"],
)
def test_the_cost_comes_from_the_tables(library: Any, model: str, dollars: float | None) -> None:
    """Cached tokens at their own price; a model without a price costs None."""
    from litellm.types.utils import PromptTokensDetailsWrapper, Usage

    wire = Usage(
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        prompt_tokens_details=PromptTokensDetailsWrapper(cached_tokens=500),
    )
    settings = LiteLLMSettings()
    usage = counted(wire, asked(model), "")

    cost = cost_of(library, facts_of(library, model, settings), settings, wire, usage)
    assert cost == (None if dollars is None else pytest.approx(dollars))
    assert usage.cached_tokens == 500
