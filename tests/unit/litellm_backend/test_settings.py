"""Settings of the LiteLLM backend are validated on creation, without LiteLLM."""

import subprocess
import sys

import pytest

from backends.litellm_backend import LiteLLMBackend
from backends.litellm_backend.settings import LiteLLMSettings
from crucible import InvalidRequest


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"api_base": "localhost:8000"}, "api_base"),
        ({"without": ["supports_magic"]}, "without"),
        ({"without_options": ["magic"]}, "without_options"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_retries": -1}, "max_retries"),
        ({"models": ["groq/a"], "default_model": "groq/b"}, "default_model"),
        ({"modles": ["groq/a"]}, "modles"),
    ],
    ids=["no scheme", "unknown capability", "unknown option", "no time", "retries", "default", "typing mistake"],
)
def test_wrong_settings_are_refused_when_it_is_made(config: dict[str, object], said: str) -> None:
    """Naming the setting."""
    with pytest.raises(InvalidRequest, match=said):
        LiteLLMBackend(config)


def test_a_key_is_in_no_repr() -> None:
    """Of the settings or the backend."""
    backend = LiteLLMBackend({"api_key": "sk-0123456789"})

    assert "0123456789" not in f"{backend!r}{backend.__dict__}"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({}, None),
        ({"api_base": "https://example.org/v1"}, None),
        ({"api_base": "http://127.0.0.1:8000/v1"}, "none"),
        ({"api_base": "http://127.0.0.1:8000/v1", "api_key": "k"}, "k"),
    ],
    ids=["provider", "elsewhere", "this machine", "given"],
)
def test_a_server_on_this_machine_gets_no_key_of_another(config: dict[str, str], key: str | None) -> None:
    """LiteLLM would send it whatever OPENAI_API_KEY says."""
    assert LiteLLMSettings.model_validate(config).key() == key


def test_a_missing_extra_is_named() -> None:
    """On opening, with the package to install; importing and creating a backend need no extra."""
    code = """
import asyncio, sys
sys.modules["litellm"] = None
from backends.litellm_backend import LiteLLMBackend
from crucible import Unsupported
try:
    asyncio.run(LiteLLMBackend().open())
except Unsupported as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert "nsai-work[litellm]" in done.stdout, done.stderr
