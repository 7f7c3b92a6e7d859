"""LiteLLM as the backend imports it, without credentials of the machine."""

import asyncio
import importlib.util
import os
from typing import Any

import pytest


@pytest.fixture(scope="session")
def library() -> Any:
    """LiteLLM, or a skip that names the command to install it."""
    if importlib.util.find_spec("litellm") is None:
        pytest.skip("the extra litellm is not installed; make extras runs these")
    from backends.litellm_backend.library import opened

    return asyncio.run(opened())


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
