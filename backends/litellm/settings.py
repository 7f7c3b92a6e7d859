"""The settings of the ``litellm`` backend."""

from typing import Final

from pydantic import Field, SecretStr

from backends.openai.settings import Claim, Option
from crucible.record import Record

BACKEND: Final = "litellm"


class LiteLLMSettings(Record):
    """Keys and addresses come from the variables that LiteLLM reads for each provider (``ANTHROPIC_API_KEY``
    and the like), unless ``api_key`` and ``api_base`` are given here for all."""

    api_key: SecretStr | None = None
    api_base: str | None = None
    models: tuple[str, ...] = ()
    """What ``capabilities`` lists, the default first; other names of LiteLLM work as well."""
    without: tuple[Claim, ...] = ()
    without_options: tuple[Option, ...] = ()
    timeout_s: float = Field(default=600.0, gt=0)
    max_retries: int = Field(default=2, ge=0, le=20)
    keep_raw_response: bool = False
