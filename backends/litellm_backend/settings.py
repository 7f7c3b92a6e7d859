"""Settings of the LiteLLM backend."""

import os
from typing import Final

from pydantic import Field, SecretStr, field_validator

from backends.openai.settings import PLACEHOLDER_KEY, URL_FORM, Claim, Option, is_http_url, is_loopback
from crucible.http.redaction import remember_secret
from crucible.values.record import Record

BACKEND: Final = "litellm"
MODEL_VARIABLE: Final = "NSAI_WORK_LITELLM_DEFAULT_MODEL"


class LiteLLMSettings(Record):
    """Settings. Models have LiteLLM's names: ``anthropic/claude-sonnet-4-5``, ``groq/...``, ``hosted_vllm/...``.

    LiteLLM reads keys and addresses from each provider's variables (``ANTHROPIC_API_KEY`` and the like), unless
    ``api_key`` and ``api_base`` are set here for all. Capabilities come from LiteLLM's tables; ``supports`` adds
    to them for models that are not listed, ``without`` and ``without_options`` remove some.
    """

    api_key: SecretStr | None = None
    api_base: str | None = None
    models: tuple[str, ...] = ()
    """The allowed models, the default first; if empty, all that LiteLLM supports."""
    default_model: str | None = Field(default_factory=lambda: os.environ.get(MODEL_VARIABLE) or None)
    """For prompts without a model; by default that of ``NSAI_WORK_LITELLM_DEFAULT_MODEL``, else the first."""
    supports: tuple[Claim, ...] = ()
    without: tuple[Claim, ...] = ()
    without_options: tuple[Option, ...] = ()
    timeout_s: float = Field(default=600.0, gt=0)
    max_retries: int = Field(default=2, ge=0, le=20)
    """The number of retries of a request after a connection error, 408, 409, 429 or 5xx, by providers' clients that
    support it."""
    max_response_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """The limit of an answer's size, decompressed."""
    keep_raw_response: bool = False
    cost_per_million_input: float | None = Field(default=None, ge=0)
    """US dollars; overrides LiteLLM's tables, as does ``cost_per_million_output``."""
    cost_per_million_output: float | None = Field(default=None, ge=0)
    cost_per_million_cached_input: float | None = Field(default=None, ge=0)
    """The price of cached tokens where the other prices are set here; by default that of other input."""

    @field_validator("api_base")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and not is_http_url(value):
            raise ValueError(URL_FORM)
        return value

    def key(self) -> str | None:
        """The API key for all models, or None to use each provider's variable.

        A server on this machine gets a placeholder.
        """
        if self.api_key is not None:
            key = self.api_key.get_secret_value()
            remember_secret(key)
            return key
        if self.api_base is not None and is_loopback(self.api_base):
            return PLACEHOLDER_KEY
        return None
