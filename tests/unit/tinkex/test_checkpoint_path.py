"""tinker:// paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex.types import CheckpointKind, ParsedCheckpointTinkerPath
from crucible.errors import InvalidRequest

PART = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-_:.@"), min_size=1).filter(
    lambda part: part not in (".", "..")
)


@given(PART, st.sampled_from(list(CheckpointKind)), PART)
def test_parts_survive_the_path(run: str, kind: CheckpointKind, name: str) -> None:
    """Whatever a path is made of comes out of it again."""
    parsed = ParsedCheckpointTinkerPath.of(run, kind, name)

    assert ParsedCheckpointTinkerPath.from_tinker_path(parsed.tinker_path) == parsed
    assert (parsed.training_run_id, parsed.checkpoint_type, parsed.name) == (run, kind, name)


def test_a_short_path_is_a_samplers() -> None:
    """Some servers answer sampler saves without the kind."""
    parsed = ParsedCheckpointTinkerPath.from_tinker_path("tinker://model_1/final")

    assert (parsed.checkpoint_type, parsed.checkpoint_id) == (CheckpointKind.SAMPLER, "sampler_weights/final")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tinker:/run/weights/a",
        "http://run/weights/a",
        "tinker://",
        "tinker://run",
        "tinker://run/weights",
        "tinker://run/weights/",
        "tinker:///weights/a",
        "tinker://run/other/a",
        "tinker://run/weights/a/b",
        "tinker://run/weights/..",
        "tinker://../weights/a",
        "tinker://run/weights/a b",
        "tinker://run/weights/a?x",
        "tinker://run/weights/a\n",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    """The error names the field, the value, and the form that is allowed."""
    with pytest.raises(InvalidRequest) as caught:
        ParsedCheckpointTinkerPath.from_tinker_path(path, field="resume_from")

    assert caught.value.details["field"] == "resume_from"
    assert "tinker://RUN/weights/NAME" in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in another way, and no part that it gives leaves its place in a URL."""
    try:
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(text)
    except InvalidRequest:
        return
    assert "/" not in parsed.training_run_id
    assert "/" not in parsed.name
    assert parsed.name not in (".", "..")
