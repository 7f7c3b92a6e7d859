"""The settings of the ``openai`` backend, and where it finds what it is not told."""

import os
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from crucible.errors import InvalidRequest
from crucible.record import Record

BACKEND: Final = "openai"
KEY_NAME: Final = "OPENAI_API_KEY"
_DEFAULT_URL: Final = "https://api.openai.com/v1"

Claim = Literal[
    "supports_streaming",
    "supports_tools",
    "supports_vision",
    "supports_json_mode",
    "supports_json_schema",
    "supports_logprobs",
    "supports_n",
]
Option = Literal[
    "frequency_penalty", "max_tokens", "presence_penalty", "seed", "stop", "temperature", "top_k", "top_logprobs",
    "top_p",
]  # fmt: skip


class OpenAISettings(Record):
    """Without ``base_url`` and ``api_key``: ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``.

    The protocol has no way to ask a server what it can do. ``without`` names the capabilities, and
    ``without_options`` the options, that yours lacks; they are then refused before anything is sent.
    """

    base_url: str | None = None
    api_key: SecretStr | None = None
    default_model: str | None = None
    models: tuple[str, ...] | None = None
    """Instead of asking the server for its list."""
    without: tuple[Claim, ...] = ()
    without_options: tuple[Option, ...] = ()
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The name under which the server takes the limit; by default the newer for OpenAI's own, else the older."""
    max_context_length: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=600.0, gt=0)
    max_retries: int = Field(default=2, ge=0, le=20)
    """How often the library sends one request again after a broken connection, 408, 409, 429 or 5xx."""
    keep_raw_response: bool = False
    cost_per_million_input: float | None = Field(default=None, ge=0)
    cost_per_million_output: float | None = Field(default=None, ge=0)

    def address(self) -> str:
        """Where the server is. Raises InvalidRequest for an address without scheme or host."""
        given = self.base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest.of(
                "base_url", given, "give scheme and host, as in http://127.0.0.1:8000/v1", backend=BACKEND
            )
        return given

    def key(self) -> str:
        """The key to send. A server on this machine needs none. Raises InvalidRequest when one is missing."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        given = os.environ.get(KEY_NAME)
        if given:
            return given
        if urlsplit(self.address()).hostname in ("127.0.0.1", "localhost", "::1"):
            return "none"
        raise InvalidRequest(
            f"{KEY_NAME}: no API key for {self.address()}; set {KEY_NAME}",
            backend=BACKEND,
            details={"field": KEY_NAME},
        )

    def limit_field(self) -> str:
        """The name under which the server takes ``max_tokens``."""
        if self.max_tokens_field is not None:
            return self.max_tokens_field
        return "max_completion_tokens" if self.address() == _DEFAULT_URL else "max_tokens"
