"""The page of settings is true: every setting that it names exists, and every setting stands on it."""

import re
from pathlib import Path

import pytest

from backends.fake.settings import Script
from backends.litellm_backend.settings import LiteLLMSettings
from backends.openai.settings import OpenAISettings
from backends.peft.settings import PeftSettings
from backends.python.settings import PythonSettings
from backends.tinkex.backend_settings import TinkexBackendSettings
from crucible.values.record import Record

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "backends.md").read_text()


@pytest.mark.parametrize(
    ("backend", "settings", "prefix"),
    [
        ("tinkex", TinkexBackendSettings, ""),
        ("fake", Script, "script."),
        ("peft", PeftSettings, ""),
        ("python", PythonSettings, ""),
        ("openai", OpenAISettings, ""),
        ("litellm", LiteLLMSettings, ""),
    ],
)
def test_settings_stand_on_the_page(backend: str, settings: type[Record], prefix: str) -> None:
    """No more and no fewer, but for those that the text above the table explains."""
    section = PAGE.split(f"\n## {backend}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    named = {name.removeprefix(prefix) for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    explained = {"base_url", "api_key", "home", "max_context_length"}

    assert named - explained <= set(settings.model_fields)
    assert set(settings.model_fields) - explained <= named
