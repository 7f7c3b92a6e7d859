"""From a prompt to the arguments of LiteLLM's ``acompletion``, which are OpenAI's form and a few of its own."""

import os
from typing import Any

from backends.litellm_backend.models import ModelFacts
from backends.litellm_backend.settings import BACKEND, LiteLLMSettings
from backends.openai.requests import request_body
from crucible.errors import AuthenticationFailed, Unsupported
from crucible.prompt import ImagePart, Prompt


def arguments(prompt: Prompt, facts: ModelFacts, settings: LiteLLMSettings) -> dict[str, Any]:
    """All that LiteLLM is told. No option of the prompt can reach LiteLLM's own switches: ``extra`` goes into the
    body of the request."""
    body = request_body(prompt, facts.model, "max_tokens")
    if not facts.openai_format and prompt.options.top_k is not None:
        del body["extra_body"]
        body["top_k"] = prompt.options.top_k
    limit_ms, key = prompt.options.timeout_ms, settings.key()
    return {
        **body,
        # An option that the provider lacks is an error, whatever the process has told LiteLLM.
        "drop_params": False,
        # Callbacks that the process has set up for its own use of LiteLLM do not see our prompts.
        "no-log": True,
        "num_retries": 0,
        "max_retries": settings.max_retries if limit_ms is None else 0,
        "timeout": settings.timeout_s if limit_ms is None else limit_ms / 1000,
        **({} if settings.api_base is None else {"api_base": settings.api_base}),
        **({} if key is None else {"api_key": key}),
    }


def refuse_downloads(prompt: Prompt, facts: ModelFacts) -> None:
    """For a provider that takes images by their bytes only, LiteLLM would fetch an address from here.

    Raises:
        Unsupported: naming the part of the message.
    """
    if facts.openai_format:
        return
    for index, message in enumerate(prompt.messages):
        for number, part in enumerate(message.parts()):
            if isinstance(part, ImagePart) and part.url is not None and not part.url.startswith("data:"):
                place = f"messages[{index}].content[{number}]"
                raise Unsupported(
                    f"{place}: images for {facts.provider} are given by base64 or a data: URL, because an address"
                    " would be fetched by this process",
                    backend=BACKEND,
                    details={"field": place},
                )


def require_credential(library: Any, facts: ModelFacts, settings: LiteLLMSettings) -> None:
    """Where a provider wants an API key, there must be one.

    Raises:
        AuthenticationFailed: naming the variable to set.
    """
    missing = missing_credentials(library, facts, settings)
    if missing:
        names = ", ".join(missing)
        raise AuthenticationFailed(
            f"no credential for {facts.provider}: set {names}", backend=BACKEND, details={"missing": list(missing)}
        )


def missing_credentials(library: Any, facts: ModelFacts, settings: LiteLLMSettings) -> tuple[str, ...]:
    """The variables of API keys that the provider wants and the environment lacks. Where another kind of credential
    may serve (a token, a role, a file), nothing is missing."""
    if settings.key() is not None or facts.provider.startswith("azure"):
        return ()
    missing = library.validate_environment(facts.model, api_base=settings.api_base).get("missing_keys", ())
    return tuple(name for name in missing if name.endswith("_API_KEY") and not _has_token(name.split("_")[0]))


def _has_token(provider: str) -> bool:
    return any(name.startswith(f"{provider}_") and name.endswith("TOKEN") for name in os.environ)
