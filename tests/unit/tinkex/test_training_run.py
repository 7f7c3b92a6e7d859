"""What servers say of runs, checkpoints and sessions is read whatever they leave out."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.tinkex.types import (
    Checkpoint,
    CheckpointsList,
    Cursor,
    GetSessionResponse,
    ListSessionsResponse,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfo,
)
from backends.tinkex.types.wire_record import ReadRecord

TIMES = st.sampled_from(["2026-11-01T10:00:00", "2026-11-01T10:00:00Z", "2026-11-01T12:00:00.123456+02:00"])
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


def fields(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Each field present, missing or null; and now and then one that nobody knows."""
    optional = {name: value | st.none() for name, value in known.items()}
    return st.fixed_dictionaries({}, optional={**optional, "of_tomorrow": st.integers() | st.none()})


CHECKPOINTS = fields(
    checkpoint_id=NAMES,
    checkpoint_type=st.sampled_from(["training", "sampler", "external", "of_tomorrow"]),
    time=TIMES,
    tinker_path=NAMES.map(lambda name: f"tinker://run/weights/{name}"),
    size_bytes=st.integers(0, 2**50),
    public=st.booleans(),
    expires_at=TIMES,
)
RUNS = fields(
    training_run_id=NAMES,
    base_model=NAMES,
    model_owner=NAMES,
    is_lora=st.booleans(),
    corrupted=st.booleans(),
    lora_rank=st.integers(1, 512),
    last_request_time=TIMES,
    last_checkpoint=CHECKPOINTS,
    last_sampler_checkpoint=CHECKPOINTS,
    user_metadata=st.dictionaries(NAMES, NAMES, max_size=2),
)


@given(RUNS)
def test_a_run_is_read_whatever_is_missing(value: dict[str, Any]) -> None:
    """Any combination of present, missing and null fields is a run, and ``corrupted`` is always a bool."""
    run = TrainingRun.model_validate(value)

    assert run.corrupted is bool(value.get("corrupted"))
    assert run.last_request_time is None or run.last_request_time.tzinfo is not None
    assert TrainingRun.model_validate_json(run.model_dump_json()) == run


@given(st.lists(RUNS, max_size=3), fields(offset=st.integers(0, 9), limit=st.integers(0, 9)))
def test_pages_are_read_with_and_without_cursor(runs: list[dict[str, Any]], cursor: dict[str, Any]) -> None:
    """A page holds what it holds; without a cursor it is all there is."""
    assert len(TrainingRunsResponse.model_validate({"training_runs": runs, "cursor": cursor}).training_runs) == len(
        runs
    )
    assert TrainingRunsResponse.model_validate({"training_runs": None}).cursor is None


@given(CHECKPOINTS)
def test_a_checkpoint_is_read_whatever_is_missing(value: dict[str, Any]) -> None:
    """Times come out with a zone, ``public`` is a bool."""
    checkpoint = CheckpointsList.model_validate({"checkpoints": [value]}).checkpoints[0]

    assert checkpoint.public is bool(value.get("public"))
    assert checkpoint.time is None or checkpoint.time.tzinfo is not None


def test_a_time_without_zone_is_utc() -> None:
    """Servers that leave out the zone mean UTC."""
    checkpoint = Checkpoint.model_validate({"time": "2026-11-01T10:00:00"})

    assert checkpoint.time == datetime(2026, 11, 1, 10, tzinfo=UTC)


def received(kind: type[ReadRecord] = ReadRecord) -> Iterator[type[ReadRecord]]:
    """All records that are received."""
    for each in kind.__subclasses__():
        yield each
        yield from received(each)


TIMES_OF = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in dict.fromkeys(received())
    for name, field in kind.model_fields.items()
    if "Datetime" in repr(field.annotation) or "datetime" in repr(field.annotation)
]


@pytest.mark.parametrize(("kind", "name"), TIMES_OF)
def test_a_time_outside_of_the_calendar_is_refused(kind: type[ReadRecord], name: str) -> None:
    """In every field of every answer; a time inside is kept."""
    least = {key: "x" for key, field in kind.model_fields.items() if field.is_required()}
    for text in ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"):
        with pytest.raises(ValidationError, match="outside of the years 1 to 9999"):
            kind.model_validate({**least, name: text})
    read = kind.model_validate({**least, name: "9999-12-31T22:59:59-01:00"})
    assert getattr(read, name) == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_the_walk_reaches_every_kind_of_record() -> None:
    """Of runs, checkpoints, sessions, signed addresses and usage."""
    found = {str(each.id).partition(".")[0] for each in TIMES_OF}
    assert found >= {"TrainingRun", "Checkpoint", "SessionInfo", "ExternalWeightsUrls", "BillingUsage"}


@pytest.mark.parametrize(
    ("cursor", "following"),
    [
        pytest.param(Cursor(offset=0, limit=2, total_count=5), 2, id="more"),
        pytest.param(Cursor(offset=4, limit=2, total_count=5), None, id="last"),
        pytest.param(Cursor(offset=0, limit=5, total_count=5), None, id="only"),
        pytest.param(Cursor(), None, id="unsaid"),
    ],
)
def test_a_cursor_knows_the_next_page(cursor: Cursor, following: int | None) -> None:
    """After the last page there is none."""
    assert cursor.next_offset == following


def test_sessions_are_read_as_ids_and_as_records() -> None:
    """Servers list sessions either way."""
    listed = ListSessionsResponse.model_validate({"sessions": ["a", {"session_id": "b"}]})

    assert [session.session_id for session in listed.sessions] == ["a", "b"]
    assert (
        GetSessionResponse.model_validate({"training_run_ids": None, "sampler_ids": ["s"]}).training_run_ids == []
    )


def test_weights_info_is_read_with_the_least() -> None:
    """A server that says no more than the base model is understood."""
    assert WeightsInfo.model_validate({"base_model": "m", "lora_rank": None}).lora_rank is None
