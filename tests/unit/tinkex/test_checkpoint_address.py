"""Checkpoint addresses: parsed where they have our form, carried unchanged where they do not."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex.types.checkpoint_address import CheckpointAddress
from crucible.errors import InvalidRequest


def test_a_tinker_path_has_parts() -> None:
    """The text stays as it was written."""
    address = CheckpointAddress.parse("tinker://run/weights/000100")

    assert address.text == "tinker://run/weights/000100"
    assert address.required_parts("path").training_run_id == "run"
    assert CheckpointAddress.parse(address) is address


@pytest.mark.parametrize(
    "text",
    [
        "/var/data/checkpoints/st-0001",
        "tinker://2f1c-samp-3",
        "st-0001",
        "weights/a",
        "/a/../b",
        "/a b",
        "s3://bucket/key",
        "tinker://..",
        "tinker://run/",
        "tinker://run/other/a",
        "tinker://run/weights/a/b",
        "tinker://run/weights/a?x",
    ],
)
def test_an_address_of_another_form_is_carried(text: str) -> None:
    """It has no parts, and requests that need them fail with the allowed form."""
    address = CheckpointAddress.parse(text)

    assert (address.text, address.parts) == (text, None)
    with pytest.raises(InvalidRequest, match="tinker://RUN/weights/NAME"):
        address.required_parts("tinker_path")


@pytest.mark.parametrize(
    "text",
    ["", "  ", "/a\n", "tinker://run/weights/\x00", "/\x1b[31m", "\ud800", "a" * 4097],
)
def test_text_that_no_server_writes_is_refused(text: str) -> None:
    """Empty, too long, or with control characters. The error names the field."""
    with pytest.raises(InvalidRequest) as caught:
        CheckpointAddress.parse(text, field="model_path")

    assert caught.value.details["field"] == "model_path"


@given(st.text())
def test_any_text_is_carried_unchanged_or_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    with contextlib.suppress(InvalidRequest):
        assert CheckpointAddress.parse(text).text == text
