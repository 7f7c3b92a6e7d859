"""Settings of the OpenAI backend."""

import os
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from crucible.errors import CredentialMissing, InvalidRequest
from crucible.http.redaction import remember_secret
from crucible.values.record import Record

BACKEND: Final = "openai"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
PLACEHOLDER_KEY: Final = "none"
"""Sent to servers on this machine, which need no key, in place of a key that belongs to another server."""
MODEL_VARIABLE: Final = "NSAI_WORK_OPENAI_DEFAULT_MODEL"
URL_FORM: Final = "give scheme and host, as in http://127.0.0.1:8000/v1"
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
OTHER_OPTIONS: Final = ("timeout_ms", "extra", "image_detail")
"""Options that every server has."""


class OpenAISettings(Record):
    """Settings. ``base_url`` and ``api_key`` default to ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``.

    The protocol cannot query a server's capabilities. ``without`` lists the capabilities, and ``without_options``
    the options, that the server lacks; prompts that need them are refused before anything is sent.
    """

    base_url: str | None = None
    api_key: SecretStr | None = None
    default_model: str | None = Field(default_factory=lambda: os.environ.get(MODEL_VARIABLE) or None)
    """For prompts without a model; by default that of ``NSAI_WORK_OPENAI_DEFAULT_MODEL``, else the first."""
    models: tuple[str, ...] | None = None
    """The models to offer; by default the server's list."""
    without: tuple[Claim, ...] = ()
    without_options: tuple[Option, ...] = ()
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The server's name of the token limit; by default the newer name for OpenAI itself, else the older."""
    max_context_length: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=600.0, gt=0)
    max_retries: int = Field(default=2, ge=0, le=20)
    """The number of retries of a request after a connection error, 408, 409, 429 or 5xx."""
    max_response_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """The limit of an answer's size, decompressed."""
    thinking_field: Literal["reasoning_content", "reasoning"] | None = None
    """The field in which the server accepts the thinking of earlier turns. By default ``reasoning_content``; OpenAI
    itself accepts none, so that prompts with thinking are refused."""
    keep_raw_response: bool = False
    cost_per_million_input: float | None = Field(default=None, ge=0)
    cost_per_million_output: float | None = Field(default=None, ge=0)
    cost_per_million_cached_input: float | None = Field(default=None, ge=0)
    """The price of cached tokens; by default that of other input."""

    def address(self) -> str:
        """The server's base URL. Raises InvalidRequest if it lacks scheme or host."""
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
        if not is_http_url(url):
            raise InvalidRequest.of("base_url", url, URL_FORM, backend=BACKEND)
        return url

    def key(self) -> str:
        """The API key; a placeholder for a server on this machine. Raises CredentialMissing if there is none."""
        key = os.environ.get(KEY_VARIABLE) if self.api_key is None else self.api_key.get_secret_value()
        if key:
            remember_secret(key)
            return key
        if is_loopback(self.address()):
            return PLACEHOLDER_KEY
        raise CredentialMissing(
            f"{KEY_VARIABLE}: no API key for {self.address()}; set {KEY_VARIABLE}",
            backend=BACKEND,
            details={"field": KEY_VARIABLE},
        )

    def limit_field(self) -> str:
        """The server's name of ``max_tokens``."""
        if self.max_tokens_field is not None:
            return self.max_tokens_field
        return "max_completion_tokens" if self.address() == _DEFAULT_URL else "max_tokens"

    def thinking_in(self) -> str | None:
        """The field of a message for its thinking; None if the server has none."""
        if self.thinking_field is not None:
            return self.thinking_field
        return None if self.address() == _DEFAULT_URL else "reasoning_content"


def is_http_url(url: str) -> bool:
    """Check whether a URL has the scheme http or https, and a host."""
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def is_loopback(url: str) -> bool:
    """Check whether a URL's host is this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
