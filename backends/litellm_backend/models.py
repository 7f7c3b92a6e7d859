"""Capabilities of models, from LiteLLM's tables and the settings."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, get_args

from backends.litellm_backend.errors import translated
from backends.litellm_backend.settings import BACKEND, LiteLLMSettings
from backends.openai.settings import Claim, Option
from crucible.capabilities import Capabilities
from crucible.errors import CrucibleError, InvalidRequest

# for each claim: the required parameter, and the flag in LiteLLM's table of models
_NEEDS: Final[dict[str, tuple[str, str | None]]] = {
    "supports_streaming": ("stream", None),
    "supports_tools": ("tools", "supports_function_calling"),
    "supports_vision": ("messages", "supports_vision"),
    "supports_json_mode": ("response_format", None),
    "supports_json_schema": ("response_format", "supports_response_schema"),
    "supports_logprobs": ("logprobs", None),
    "supports_n": ("n", None),
}
# claims that a model without an entry in the tables does not get
_RARE: Final = ("supports_vision", "supports_json_schema")
_OPENAI_FORMAT: Final = ("openai", "azure", "custom_openai", "openai_like")
_TOP_K_PROVIDERS: Final = ("anthropic", "gemini", "vertex_ai")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Provider, capabilities, limits and prices of one model."""

    model: str
    provider: str
    openai_format: bool
    """Its server uses OpenAI's own format, and so accepts extra fields and URLs of images."""
    claims: frozenset[str]
    options: tuple[str, ...]
    context: int | None = None
    max_tokens: int | None = None
    cost_per_million_input: float | None = None
    cost_per_million_output: float | None = None


def facts_of(library: Any, model: str, settings: LiteLLMSettings) -> ModelFacts:
    """Look a model up in LiteLLM's tables, without network access.

    Raises:
        InvalidRequest: LiteLLM knows no provider of that name.
    """
    try:
        name, provider, _, _ = library.get_llm_provider(model, api_base=settings.api_base)
        supported = library.get_supported_openai_params(model=name, custom_llm_provider=provider)
    except Exception as exc:
        raise _unknown(model, translated(exc, model)) from None
    info = _table_entry(library, name, provider)
    parameters = {"messages", *(supported or ())}
    openai_format = provider in _OPENAI_FORMAT or provider in library.openai_compatible_providers
    return ModelFacts(
        model=model,
        provider=provider,
        openai_format=openai_format,
        claims=frozenset(_claims(parameters, info, settings)),
        options=tuple(_options(parameters, provider, openai_format, settings)),
        context=info.get("max_input_tokens"),
        max_tokens=info.get("max_output_tokens"),
        cost_per_million_input=_price(library, info, "input", settings.cost_per_million_input),
        cost_per_million_output=_price(library, info, "output", settings.cost_per_million_output),
    )


def capabilities_of(models: Collection[ModelFacts], settings: LiteLLMSettings) -> Capabilities:
    """The union of the models' capabilities; without models, everything that LiteLLM supports."""
    claims = {claim for facts in models for claim in facts.claims} if models else _allowed(settings)
    listed = {option for facts in models for option in facts.options}
    options = listed if models else {*get_args(Option), "extra", "image_detail"}
    only = next(iter(models)) if len(models) == 1 else None
    limits = [facts.max_tokens for facts in models]
    known_limits = [limit for limit in limits if limit is not None]
    return Capabilities(
        backend_id=BACKEND,
        provider=BACKEND if only is None else only.provider,
        models=tuple(facts.model for facts in models),
        default_model=settings.default_model or next((facts.model for facts in models), None),
        accepts_other_models=not settings.models,
        context_lengths={facts.model: facts.context for facts in models if facts.context is not None},
        supports_thinking_history=not models or any(facts.openai_format for facts in models),
        token_streaming="supports_streaming" in claims,
        options=(*sorted(options - set(settings.without_options)), "timeout_ms"),
        max_tokens=max(known_limits) if limits and len(known_limits) == len(limits) else None,
        max_context_length=None if only is None else only.context,
        cost_per_million_input=None if only is None else only.cost_per_million_input,
        cost_per_million_cached_input=settings.cost_per_million_cached_input,
        cost_per_million_output=None if only is None else only.cost_per_million_output,
        **{claim: claim in claims for claim in get_args(Claim)},
    )


def _claims(parameters: set[str], info: dict[str, Any], settings: LiteLLMSettings) -> Iterable[str]:
    for claim in _allowed(settings):
        parameter, flag = _NEEDS[claim]
        listed = not flag or (info.get(flag) is True if info else claim not in _RARE)
        if claim in settings.supports or (parameter in parameters and listed):
            yield claim


def _allowed(settings: LiteLLMSettings) -> set[str]:
    return set(get_args(Claim)) - set(settings.without)


def _options(parameters: set[str], provider: str, openai_format: bool, settings: LiteLLMSettings) -> Iterable[str]:
    for option in get_args(Option):
        supported = (openai_format or provider in _TOP_K_PROVIDERS) if option == "top_k" else option in parameters
        if supported and option not in settings.without_options:
            yield option
    if openai_format:
        yield "extra"
        yield "image_detail"


def _table_entry(library: Any, name: str, provider: str) -> dict[str, Any]:
    """The model's entry in LiteLLM's table; empty if there is none."""
    try:
        return dict(library.get_model_info(name, custom_llm_provider=provider))
    except Exception:
        return {}  # LiteLLM raises plain Exception for this


def _price(library: Any, info: dict[str, Any], side: str, configured: float | None) -> float | None:
    """The price per million tokens. Reads the table itself, because ``get_model_info`` returns 0 for unknown."""
    if configured is not None or not info:
        return configured
    price = library.model_cost.get(info.get("key"), {}).get(f"{side}_cost_per_token")
    return price * 1e6 if isinstance(price, int | float) else None


def _unknown(model: str, error: CrucibleError) -> InvalidRequest:
    allowed = "use LiteLLM's name with the provider, as in groq/llama-3.3-70b-versatile"
    return InvalidRequest.of(
        "options.model", model, f"{allowed} ({error.message.splitlines()[0]})", backend=BACKEND
    )
