"""What one model can do, from LiteLLM's tables and the settings, as data."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, get_args

from backends.litellm_backend.errors import translated
from backends.litellm_backend.settings import BACKEND, LiteLLMSettings
from backends.openai.settings import Claim, Option
from crucible.capabilities import Capabilities
from crucible.errors import CrucibleError, InvalidRequest

# LiteLLM's name of the parameter, and of the model's flag in its table, that a claim needs.
_NEEDS: Final[dict[str, tuple[str, str | None]]] = {
    "supports_streaming": ("stream", None),
    "supports_tools": ("tools", "supports_function_calling"),
    "supports_vision": ("messages", "supports_vision"),
    "supports_json_mode": ("response_format", None),
    "supports_json_schema": ("response_format", "supports_response_schema"),
    "supports_logprobs": ("logprobs", None),
    "supports_n": ("n", None),
}
# What a model that the tables do not list is not believed to have.
_RARE: Final = ("supports_vision", "supports_json_schema")
_OPENAI_FORMAT: Final = ("openai", "azure", "custom_openai", "openai_like")
_TAKES_TOP_K: Final = ("anthropic", "gemini", "vertex_ai")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model."""

    model: str
    provider: str
    openai_format: bool
    """Whether its server takes OpenAI's own form, and with it further fields and addresses of images."""
    claims: frozenset[str]
    options: tuple[str, ...]
    context: int | None = None
    max_tokens: int | None = None
    cost_per_million_input: float | None = None
    cost_per_million_output: float | None = None


def facts_of(library: Any, model: str, settings: LiteLLMSettings) -> ModelFacts:
    """What LiteLLM knows of a model. Asks no network.

    Raises:
        InvalidRequest: LiteLLM knows no provider of that name.
    """
    try:
        name, provider, _, _ = library.get_llm_provider(model, api_base=settings.api_base)
        known = library.get_supported_openai_params(model=name, custom_llm_provider=provider)
    except Exception as exc:
        raise _unknown(model, translated(exc, model)) from None
    info = _listed(library, name, provider)
    parameters = {"messages", *(known or ())}
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
    """What at least one of the models can do; without models, what at least one of LiteLLM's can."""
    claims = {claim for facts in models for claim in facts.claims} if models else _allowed(settings)
    honoured = {one for facts in models for one in facts.options} if models else {*get_args(Option), "extra"}
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
        token_streaming="supports_streaming" in claims,
        options=(*sorted(honoured - set(settings.without_options)), "timeout_ms"),
        max_tokens=max(known_limits) if limits and len(known_limits) == len(limits) else None,
        max_context_length=None if only is None else only.context,
        cost_per_million_input=None if only is None else only.cost_per_million_input,
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
        taken = (openai_format or provider in _TAKES_TOP_K) if option == "top_k" else option in parameters
        if taken and option not in settings.without_options:
            yield option
    if openai_format:
        yield "extra"


def _listed(library: Any, name: str, provider: str) -> dict[str, Any]:
    """The model's entry in LiteLLM's table; empty when it has none."""
    try:
        return dict(library.get_model_info(name, custom_llm_provider=provider))
    except Exception:
        return {}  # LiteLLM has one kind of error for this, and it is plain Exception


def _price(library: Any, info: dict[str, Any], side: str, given: float | None) -> float | None:
    """LiteLLM fills a price that it does not know with 0; its table itself tells the two apart."""
    if given is not None or not info:
        return given
    price = library.model_cost.get(info.get("key"), {}).get(f"{side}_cost_per_token")
    return price * 1e6 if isinstance(price, int | float) else None


def _unknown(model: str, error: CrucibleError) -> InvalidRequest:
    said = "name it as LiteLLM does, with its provider, as in groq/llama-3.3-70b-versatile"
    return InvalidRequest.of("options.model", model, f"{said} ({error.message.splitlines()[0]})", backend=BACKEND)
