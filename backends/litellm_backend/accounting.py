"""Usage and cost of an answer. An unknown value is None, not 0."""

from typing import Any

from backends.litellm_backend.models import ModelFacts
from backends.litellm_backend.settings import LiteLLMSettings
from backends.openai.answers import price, usage_of
from crucible.completion import Usage, UsageSource
from crucible.prompt import Prompt


def data_of(response: Any) -> Any:
    """An answer or a chunk of LiteLLM as JSON data, with what LiteLLM moved aside back in its place.

    LiteLLM's objects may hold values that do not fit their own types.
    """
    data = response.model_dump(warnings=False) if hasattr(response, "model_dump") else response
    choices = data.get("choices") if isinstance(data, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        aside = choice.get("provider_specific_fields")
        if isinstance(aside, dict):
            choice["error"] = aside.get("error")
            # LiteLLM reads every reason that it does not know as stop
            choice["finish_reason"] = aside.get("native_finish_reason") or choice.get("finish_reason")
        message = choice.get("message")
        aside = message.get("provider_specific_fields") if isinstance(message, dict) else None
        if isinstance(aside, dict) and message is not None:
            message["refusal"] = aside.get("refusal")
    return data


def counted(wire: Any, prompt: Prompt, text: str) -> Usage:
    """The provider's usage, or an estimate, marked as one. LiteLLM writes 0 for uncounted thinking tokens."""
    data = wire.model_dump(warnings=False) if hasattr(wire, "model_dump") else wire
    usage = usage_of(data, prompt, text)
    return usage.model_copy(update={"thinking_tokens": usage.thinking_tokens or None})


def usage_object(library: Any, usage: Usage) -> Any:
    """LiteLLM's record of a usage, from which it computes the cost."""
    return library.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details={"cached_tokens": usage.cached_tokens or 0},
    )


def cost_of(library: Any, facts: ModelFacts, settings: LiteLLMSettings, wire: Any, usage: Usage) -> float | None:
    """The cost in US dollars, by the configured prices or LiteLLM's tables (with discounts for cached tokens)."""
    input_price, output_price = facts.cost_per_million_input, facts.cost_per_million_output
    if input_price is None or output_price is None or usage.source is UsageSource.ESTIMATED:
        return None
    if settings.cost_per_million_input is not None or settings.cost_per_million_output is not None:
        return price(usage, (input_price, output_price), settings.cost_per_million_cached_input)
    try:
        name, provider, _, _ = library.get_llm_provider(facts.model)
        costs = library.cost_per_token(model=name, custom_llm_provider=provider, usage_object=wire)
    except Exception:
        return None  # LiteLLM raises plain Exception for a model that it cannot price
    return float(sum(costs))
