"""The settings of the ``litellm`` backend."""

from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from backends.openai.settings import Claim, Option
from crucible.record import Record

BACKEND: Final = "litellm"


class LiteLLMSettings(Record):
    """Models are named as LiteLLM names them: ``anthropic/claude-sonnet-4-5``, ``groq/...``, ``hosted_vllm/...``.

    Keys and addresses come from the variables that LiteLLM reads for each provider (``ANTHROPIC_API_KEY`` and the
    like), unless ``api_key`` and ``api_base`` are given here for all. What a model can do comes from LiteLLM's
    tables; ``supports`` adds to that what they do not know of a model of your own, ``without`` and
    ``without_options`` take away.
    """

    api_key: SecretStr | None = None
    api_base: str | None = None
    models: tuple[str, ...] = ()
    """The only models that may be asked, the default first; none: any that LiteLLM knows how to reach."""
    default_model: str | None = None
    supports: tuple[Claim, ...] = ()
    without: tuple[Claim, ...] = ()
    without_options: tuple[Option, ...] = ()
    timeout_s: float = Field(default=600.0, gt=0)
    max_retries: int = Field(default=2, ge=0, le=20)
    """How often a request is sent again after a broken connection, 408, 409, 429 or 5xx, where LiteLLM's client for
    the provider does that."""
    keep_raw_response: bool = False
    cost_per_million_input: float | None = Field(default=None, ge=0)
    """US dollars, in place of what LiteLLM's tables say; so is ``cost_per_million_output``."""
    cost_per_million_output: float | None = Field(default=None, ge=0)

    @field_validator("api_base")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("give scheme and host, as in http://127.0.0.1:8000/v1")
        return value

    def key(self) -> str | None:
        """The key for every model; ``None`` leaves it to LiteLLM to find the provider's own.

        A server on this machine needs none, and gets none that belongs to another.
        """
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self.api_base is not None and urlsplit(self.api_base).hostname in ("127.0.0.1", "localhost", "::1"):
            return "none"
        return None
