"""A backend without its extra reports what to install."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("name", "package"), [("openai", "openai"), ("peft", "torch")])
def test_a_missing_extra_is_named(name: str, package: str) -> None:
    """When it is opened; listing and loading need no extra."""
    code = f"""
import sys
sys.modules[{package!r}] = None
from crucible import Unsupported, connect
backend = connect({name!r}, {{"base_url": "http://127.0.0.1:9"}} if {name!r} == "openai" else None)
try:
    backend.__enter__()
except Unsupported as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert f"nsai-work[{name}]" in done.stdout, done.stderr
