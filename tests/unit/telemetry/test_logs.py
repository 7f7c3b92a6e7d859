"""Log lines: nothing in them acts on a terminal or shows a credential, in text and in JSON."""

import io
import json
import logging
import logging.handlers
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.contextvars import bound_contextvars

from crucible.http import redaction
from nsai_work.telemetry.logs import _dumped, _JsonLines, log_event

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


FIELDS = {
    "job_id": "a",
    "level": "of the job",
    "error": ValueError(f"{HOSTILE} {KEY}"),
    "n": {"a": [KEY, 1.5, None]},
}


@pytest.mark.parametrize("secret", [None, KEY])
def test_a_line_without_a_record_is_as_one_of_a_record(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    """In all but its time, with fields of any kind; a record is made for whoever else listens."""
    monkeypatch.setattr(redaction, "_pieces", {})
    monkeypatch.setattr(redaction, "_secrets", set())
    redaction.remember_secret(secret)
    with bound_contextvars(trace_id="t"):
        _compare(monkeypatch, secret)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_a_line_holds_any_fields_and_acts_on_nothing(fields: dict[str, Any]) -> None:
    """Whichever of the two writers of JSON makes it: ASCII without control characters, and the same values."""
    line = _dumped(fields)
    assert json.loads(line) == json.loads(json.dumps(fields))
    assert line.isascii()
    assert not {*line} & {*map(chr, range(32))}


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "\ud800", ValueError("x"), {1: 2}, 2**80, b"\xff"])
def test_a_line_holds_values_that_json_has_not(value: Any) -> None:
    """Each is a line of valid JSON, with the other fields as they are."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    line = json.loads(_dumped({"value": value, "event": "e", "n": "1"}), parse_constant=refuse)
    assert (line["event"], line["n"], line.keys()) == ("e", "1", {"value", "event", "n"})


def _compare(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    stream = io.StringIO()
    lines, other = _JsonLines(stream), logging.handlers.BufferingHandler(10)
    logger = logging.getLogger("nsai_work.test.lines")
    logger.setLevel(logging.INFO)
    for handlers in ([lines], [lines, other]):
        monkeypatch.setattr(logging.root, "handlers", handlers)
        log_event(logger, logging.WARNING, "job.failed", FIELDS)

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert second.pop("time").endswith("Z")
    assert first == second
    assert (first["level"], first["level_"], first["trace_id"]) == ("warning", "of the job", "t")
    assert len(other.buffer) == 1
    assert stream.getvalue().isascii()
    assert (KEY in stream.getvalue()) is (secret is None)


def test_every_filter_and_level_of_an_embedding_application_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without a record is written only where nothing would have stopped or seen the record."""
    stream = io.StringIO()
    lines = _JsonLines(stream)
    monkeypatch.setattr(logging.root, "handlers", [lines])
    child = logging.getLogger("nsai_work.test.filtered.child")
    parent = logging.getLogger("nsai_work.test.filtered")

    def refuse(_: logging.LogRecord) -> bool:
        return False

    for holder in (lines, child):
        holder.addFilter(refuse)
        log_event(child, logging.INFO, "filtered", {})
        holder.removeFilter(refuse)
    lines.setLevel(logging.ERROR)
    log_event(child, logging.INFO, "below the level", {})
    lines.setLevel(logging.NOTSET)
    buffer = logging.handlers.BufferingHandler(10)
    parent.addHandler(buffer)
    parent.propagate = False
    log_event(child, logging.INFO, "elsewhere", {})
    parent.removeHandler(buffer)
    parent.propagate = True
    assert stream.getvalue() == ""
    assert len(buffer.buffer) == 1
    log_event(child, logging.INFO, "seen", {})
    assert json.loads(stream.getvalue())["event"] == "seen"
