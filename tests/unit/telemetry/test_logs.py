"""Log lines: nothing in them acts on a terminal or shows a credential, in text and in JSON."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

KEY = "tml-R2d2C3poZx9qW8aa"
HOSTILE = "\x1b[31mred\x1b]0;title\x07\u202egnp\x00\r\x9b5m"

SCRIPT = """
import logging, sys
from crucible.http.redaction import remember_secret
from nsai_work.telemetry.logs import configure_logging, get_logger
from nsai_work.settings import Settings
key, hostile, form = sys.argv[1:]
hostile = eval(hostile)
remember_secret(key)
configure_logging(Settings(log_format=form, log_level="info"))
log = get_logger("nsai_work.test")
log.info("job.claimed" + hostile, job_id=hostile, note=f"key {key}", error=ValueError(key), nested={"a": [key]})
logging.getLogger("foreign").warning("%s %s", hostile, key)
try:
    raise RuntimeError(f"{hostile} {key}")
except RuntimeError:
    log.warning("failed", exc_info=True)
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_shows_neither_control_characters_nor_keys(form: str) -> None:
    """In events, values, other libraries' lines, and tracebacks."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), KEY, ascii(HOSTILE), form],
        capture_output=True,
        check=True,
        timeout=120,
    )
    text = done.stderr.decode()

    assert "job.claimed" in text
    assert "RuntimeError" in text
    assert not set(text) & set("\x1b\x07\x00\r\x9b\u202e")
    assert KEY not in text
    assert "(hidden)" in text
    if form == "json":
        first: dict[str, Any] = json.loads(text.splitlines()[0])
        assert first["nested"] == {"a": ["(hidden)"]}
