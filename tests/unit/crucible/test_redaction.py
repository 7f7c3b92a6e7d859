"""A credential that a service echoes shows nowhere, in whatever form it comes."""

import base64
import html
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crucible import BackendUnavailable, InvalidRequest
from crucible.backend import Health
from crucible.http import redaction
from crucible.http.redaction import HIDDEN, redacted, remember_secret
from crucible.recovery import RecoveryEvent

KEY = "tml-R2d2+C3po/Zx9=q_W8"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_+/="  # no words of the errors themselves

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda key: json.dumps(json.dumps({"key": key})),
    "escaped JSON": lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    "URL": lambda key: quote(key, safe=""),
    "URL, every character": lambda key: "".join(f"%{ord(char):02X}" for char in key),
    "URL twice": lambda key: quote(quote(key, safe=""), safe=""),
    "HTML": html.escape,
    "HTML, every character": lambda key: "".join(f"&#{ord(char)};" for char in key),
    "repr": repr,
    "upper case": str.upper,
    "hex": lambda key: key.encode().hex(),
    "base64": lambda key: base64.b64encode(f"user:{key}!".encode()).decode(),
    "split by quotes": lambda key: key[:5] + '" "' + key[5:9] + "'" + key[9:],
    "over lines": lambda key: key[:7] + "\n   " + key[7:],
    "cut": lambda key: key[:-4] + "...",
    "without its beginning": lambda key: "..." + key[4:],
}

IN_PART = {"cut", "without its beginning"}
"""Forms of which less than a piece may remain, for a short key."""


@pytest.fixture(autouse=True)
def secrets() -> Iterator[None]:
    """Secrets of one test."""
    before = redaction._secrets.copy(), {size: set(pieces) for size, pieces in redaction._pieces.items()}
    redaction._secrets.clear()
    redaction._pieces.clear()
    yield
    redaction._secrets.clear()
    redaction._pieces.clear()
    redaction._secrets.update(before[0])
    redaction._pieces.update(before[1])
    redaction._is_known_free.cache_clear()


@given(st.text(alphabet=f'{KEY}aB "%\\&#x;é', max_size=60))
@example(f"x{KEY[:9]}y")
def test_a_text_that_seems_free_is_free(text: str) -> None:
    """What the quick look lets pass has no secret by the thorough one."""
    remember_secret(KEY)
    if redaction._is_free(text):
        assert [*redaction._spans(redaction._as_written(text))] == []
        assert [*redaction._spans(redaction._decoded_chars(text))] == []


@pytest.mark.parametrize("encoded", ENCODINGS.values(), ids=ENCODINGS)
def test_a_key_is_hidden_in_any_form(encoded: Callable[[str], str]) -> None:
    """The text around it stays."""
    remember_secret(KEY)

    shown = redacted(f"the key {encoded(KEY)} is wrong")

    assert shown.startswith("the key")
    assert shown.endswith("is wrong")
    assert HIDDEN in shown
    assert not _pieces_of(KEY, shown)
    assert encoded(KEY) not in shown


@given(
    key=st.text(ALPHABET, min_size=8, max_size=60),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    form=st.sampled_from(sorted(ENCODINGS)),
    nested=st.booleans(),
)
@example(key="00000000", before="0", after="", form="plain", nested=False)
def test_no_error_shows_a_key(key: str, before: str, after: str, form: str, nested: bool) -> None:
    """In its text, its repr, its data, its pickle, and the fields that are added to it later."""
    redaction._secrets.clear()
    redaction._pieces.clear()
    remember_secret(key)
    encoded = ENCODINGS[form](key)
    text = f"{before}{encoded}{after}"

    error = BackendUnavailable(
        text, request_id=text, details={"body": {"inner": [text]} if nested else text, text: 1}
    )
    error.details["later"] = [{"text": text}]
    of = InvalidRequest.of("options.model", "m", text)
    shown = [
        str(error),
        repr(error),
        str(error.failure()),
        error.failure().model_dump_json(),
        repr(pickle.loads(pickle.dumps(error))),
        str(of),
        str(of.failure()),
        str(Health(ok=False, reason=text)),
        str(error.as_final(text)),
        RecoveryEvent(
            name="x.recovery.failed", run_id="r", details={"reason": text, text: [text]}
        ).model_dump_json(),
    ]

    for output in shown:
        assert not _pieces_of(key, output)
        assert encoded not in output or form in IN_PART


def test_an_error_can_hold_anything_beside_a_key() -> None:
    """Deep values, names that are no text."""
    remember_secret(KEY)
    deep: Any = KEY
    for _ in range(2000):
        deep = [deep]

    error = BackendUnavailable("x", details={"deep": deep, 5: {5: KEY}})  # type: ignore[dict-item]

    assert KEY not in str(error.failure())


def test_words_are_not_hidden_for_a_short_key() -> None:
    """The placeholder of a local server is no secret."""
    remember_secret("none", None, "")

    assert redacted("none of them") == "none of them"


def test_without_a_key_nothing_changes() -> None:
    """Whatever the text."""
    assert redacted("a % b &#65; \\u0041") == "a % b &#65; \\u0041"


@given(st.text(max_size=200))
def test_other_text_stays_as_it_is(text: str) -> None:
    """Redaction returns what it does not hide, character for character."""
    redaction._secrets.clear()
    redaction._pieces.clear()
    remember_secret("Kq8-0123456789-vX")

    assert redacted(text) == text


def _pieces_of(key: str, text: str) -> list[str]:
    """The pieces of 8 characters of the key that the text shows."""
    return [key[start : start + 8] for start in range(len(key) - 7) if key[start : start + 8] in text]
