"""What an answer used and what it cost. Not known is ``None``, which is not 0."""

from typing import Any

from backends.litellm_backend.models import ModelFacts
from backends.litellm_backend.settings import LiteLLMSettings
from backends.openai.answers import usage_of
from crucible.completion import Usage, UsageSource
from crucible.prompt import Prompt


def counted(wire: Any, prompt: Prompt, said: str) -> Usage:
    """The provider's count, or an estimate that says so. LiteLLM writes 0 where nobody counted thinking."""
    usage = usage_of(wire, prompt, said)
    return usage.model_copy(update={"thinking_tokens": usage.thinking_tokens or None})


def cost_of(library: Any, facts: ModelFacts, settings: LiteLLMSettings, wire: Any, usage: Usage) -> float | None:
    """US dollars, by the settings' prices or LiteLLM's tables (which know discounts for cached tokens)."""
    dear_in, dear_out = facts.cost_per_million_input, facts.cost_per_million_output
    if dear_in is None or dear_out is None or usage.source is UsageSource.ESTIMATED:
        return None
    if settings.cost_per_million_input is not None or settings.cost_per_million_output is not None:
        return (usage.prompt_tokens * dear_in + usage.completion_tokens * dear_out) / 1e6
    try:
        name, provider, _, _ = library.get_llm_provider(facts.model)
        asked, answered = library.cost_per_token(model=name, custom_llm_provider=provider, usage_object=wire)
    except Exception:
        return None  # LiteLLM raises plain Exception for a model that it cannot price
    return float(asked + answered)
