"""Every setting is read from its variable and used by a module; a new one fails here until its row says where."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel

from backends.fake.settings import FakeSettings, Script
from backends.litellm_backend.settings import LiteLLMSettings
from backends.openai.settings import OpenAISettings
from backends.peft.settings import PeftSettings
from backends.python.settings import VARIABLES, PythonSettings
from backends.tinkex.backend_settings import TinkexBackendSettings
from backends.tinkex.settings import TinkexSettings
from nsai_work.settings import Settings

ROOT = Path(__file__).parents[2]

READERS: dict[str, tuple[str, str]] = {
    "home": ("elsewhere", "nsai_work/cli/commands/doctor.py"),
    "database_url": ("sqlite:////tmp/x.db", "nsai_work/client/connections.py"),
    "broker_url": ("spool://localhost/tmp/x", "nsai_work/dispatch/broker.py"),
    "queue_prefix": ("other", "nsai_work/dispatch/app.py"),
    "blobs_url": ("file:///tmp/blobs", "nsai_work/blobs/access.py"),
    "blobs_max_mib": ("7", "nsai_work/blobs/access.py"),
    "blobs_cache_mib": ("7", "nsai_work/client/local_files.py"),
    "python_allow": ("games", "nsai_work/settings.py"),
    "migrate": ("false", "nsai_work/client/connections.py"),
    "concurrency": ("3", "nsai_work/cli/commands/worker.py"),
    "lease_ttl_s": ("7", "nsai_work/worker/worker_store.py"),
    "presence_grace_s": ("7", "nsai_work/worker/worker_store.py"),
    "poll_interval_s": ("7", "nsai_work/worker/runtime.py"),
    "sweep_interval_s": ("7", "nsai_work/worker/maintainer.py"),
    "spool_poll_ms": ("7", "nsai_work/dispatch/broker.py"),
    "shutdown_grace_s": ("7", "nsai_work/worker/attempts/executor.py"),
    "credit_poll_s": ("7", "nsai_work/worker/attempts/executor.py"),
    "store_timeout_s": ("7", "nsai_work/worker/worker_store.py"),
    "submit_timeout_s": ("7", "nsai_work/client/submit.py"),
    "credentials": ('{"fake": "team-a"}', "nsai_work/worker/runtime.py"),
    "serve_key": ("sesame", "nsai_work/cli/commands/serve.py"),
    "notify": ('{"ops": {"notifier": "webhook"}}', "nsai_work/alerts/target.py"),
    "page_token": ("correct horse battery", "nsai_work/page/server.py"),
    "log_level": ("debug", "nsai_work/telemetry/logs.py"),
    "log_format": ("json", "nsai_work/telemetry/logs.py"),
}
"""Another value than the default, and the module that uses it."""

_TINKEX, _OPENAI, _LITELLM = "backends/tinkex/", "backends/openai/", "backends/litellm_backend/"
BACKENDS: list[tuple[type[BaseModel], str, Mapping[str, str]]] = [
    (TinkexSettings, _TINKEX, {"settings": "api_key base_url", "client/service": "project_id tags"}),
    (
        TinkexBackendSettings,
        _TINKEX,
        {
            "backend": "base_url api_key loss_tolerance heartbeat_s give_up_after_s ask_within_s no_progress_s"
            " send_ahead max_recoveries user_metadata"
        },
    ),
    (
        OpenAISettings,
        _OPENAI,
        {
            "settings": "base_url api_key max_tokens_field thinking_field",
            "backend": "default_model models without without_options max_context_length timeout_s max_retries"
            " max_response_bytes keep_raw_response cost_per_million_input cost_per_million_output"
            " cost_per_million_cached_input",
        },
    ),
    (
        LiteLLMSettings,
        _LITELLM,
        {
            "settings": "api_key",
            "requests": "api_base timeout_s max_retries",
            "models": "models default_model supports without without_options",
            "backend": "keep_raw_response max_response_bytes",
            "accounting": "cost_per_million_input cost_per_million_output cost_per_million_cached_input",
        },
    ),
    (
        PeftSettings,
        "backends/peft/",
        {"settings": "home models", "bases": "device dtype", "backend": "threads lora_alpha kept_models"},
    ),
    (PythonSettings, "backends/python/", {"backend": "allow environment", "settings": "files"}),
    (FakeSettings, "backends/fake/", {"settings": "home", "backend": "script"}),
    (Script, "backends/fake/", {"backend": "answers fail corrupt delay_ms"}),
]
"""The settings of each backend, by the module that uses them."""


def test_every_setting_has_a_row() -> None:
    """And no row is of a setting that is gone."""
    assert READERS.keys() == Settings.model_fields.keys()
    for model, _, readers in BACKENDS:
        assert {name for names in readers.values() for name in names.split()} == model.model_fields.keys(), model


@pytest.mark.parametrize("name", READERS)
def test_a_variable_is_read_and_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is not the default's, and the module of its row reads it."""
    before = getattr(Settings(), name)
    value, reader = READERS[name]
    monkeypatch.setenv(f"NSAI_WORK_{name.upper()}", value)

    assert getattr(Settings(), name) != before
    assert re.search(rf"\.{name}\b", (ROOT / reader).read_text()), reader


@pytest.mark.parametrize(("model", "folder", "readers"), BACKENDS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_setting_of_a_backend_is_used(model: type[BaseModel], folder: str, readers: Mapping[str, str]) -> None:
    """By the module of its row."""
    for module, names in readers.items():
        text = (ROOT / folder / f"{module}.py").read_text()
        assert [name for name in names.split() if not re.search(rf"\.{name}\b", text)] == [], (model, module)


def test_every_variable_of_the_python_backend_is_a_setting() -> None:
    """By name."""
    assert VARIABLES.keys() == PythonSettings.model_fields.keys()
