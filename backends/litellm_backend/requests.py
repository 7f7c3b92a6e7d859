"""Conversion of prompts to arguments of LiteLLM's ``acompletion``, and checks before the call."""

import os
from typing import Any, Final

from backends.litellm_backend.models import ModelFacts
from backends.litellm_backend.settings import BACKEND, LiteLLMSettings
from backends.openai.requests import request_body
from crucible.errors import CredentialMissing, Unsupported
from crucible.prompt import ImagePart, Prompt

THINKING_FIELD: Final = "reasoning_content"
"""LiteLLM's field of a message for its thinking."""


def arguments(prompt: Prompt, facts: ModelFacts, settings: LiteLLMSettings) -> dict[str, Any]:
    """All arguments of the call. ``extra`` goes into the request's body: no prompt can set LiteLLM's switches."""
    body = request_body(prompt, facts.model, "max_tokens", thinking=THINKING_FIELD)
    if not facts.openai_format and prompt.options.top_k is not None:
        del body["extra_body"]
        body["top_k"] = prompt.options.top_k
    limit_ms, key = prompt.options.timeout_ms, settings.key()
    return {
        **body,
        # an option that the provider lacks is an error, whatever the process-wide setting
        "drop_params": False,
        # the process's own LiteLLM callbacks do not see these prompts
        "no-log": True,
        "num_retries": 0,
        "max_retries": settings.max_retries if limit_ms is None else 0,
        "timeout": settings.timeout_s if limit_ms is None else limit_ms / 1000,
        **({} if settings.api_base is None else {"api_base": settings.api_base}),
        **({} if key is None else {"api_key": key}),
    }


def refuse_downloads(prompt: Prompt, facts: ModelFacts) -> None:
    """Refuse URLs of images for providers that accept only bytes: LiteLLM would download them in this process.

    Raises:
        Unsupported: naming the part of the message.
    """
    if facts.openai_format:
        return
    for index, message in enumerate(prompt.messages):
        for number, part in enumerate(message.parts()):
            if isinstance(part, ImagePart) and part.url is not None and not part.url.startswith("data:"):
                path = f"messages[{index}].content[{number}]"
                raise Unsupported(
                    f"{path}: images for {facts.provider} must be base64 or a data: URL, because this process"
                    " would have to download any other URL",
                    backend=BACKEND,
                    details={"field": path},
                )


def require_credential(library: Any, facts: ModelFacts, settings: LiteLLMSettings) -> None:
    """Require the API key of a provider that needs one.

    Raises:
        CredentialMissing: naming the variable to set.
    """
    missing = missing_credentials(library, facts, settings)
    if missing:
        names = ", ".join(missing)
        raise CredentialMissing(
            f"no credential for {facts.provider}: set {names}", backend=BACKEND, details={"missing": list(missing)}
        )


def missing_credentials(library: Any, facts: ModelFacts, settings: LiteLLMSettings) -> tuple[str, ...]:
    """The API key variables that the provider requires and the environment lacks.

    Empty for providers that accept another kind of credential (a token, a role, a file).
    """
    if settings.key() is not None or facts.provider.startswith("azure"):
        return ()
    missing = library.validate_environment(facts.model, api_base=settings.api_base).get("missing_keys", ())
    return tuple(name for name in missing if name.endswith("_API_KEY") and not _has_token(name.split("_")[0]))


def _has_token(provider: str) -> bool:
    return any(name.startswith(f"{provider}_") and name.endswith("TOKEN") for name in os.environ)
