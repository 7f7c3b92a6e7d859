"""Encoding and decoding of wake-ups."""

import json

from hypothesis import given
from hypothesis import strategies as st

from nsai_work.dispatch.wakeup import MAX_BODY_BYTES, BadWakeUp, decode, encode
from nsai_work.job import Priority
from nsai_work.store.records import WakeUp
from tests.strategies import names

wake_ups = st.builds(
    WakeUp,
    job_id=names(max_size=64),
    fence=st.integers(0, 2**53 - 1),
    priority=st.sampled_from(Priority),
    traceparent=st.none() | names(0, 100),
)


@given(wake_ups)
def test_what_is_encoded_is_decoded(wake_up: WakeUp) -> None:
    """A wake-up is the same after the round trip."""
    assert decode(encode(wake_up).body) == wake_up


@given(st.binary(max_size=200) | st.text(max_size=200) | st.integers() | st.none())
def test_decoding_never_raises(body: object) -> None:
    """For any body it returns a wake-up or a reason."""
    assert isinstance(decode(body), WakeUp | BadWakeUp)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), st.lists, max_leaves=10))
def test_json_of_another_shape_is_refused(content: object) -> None:
    """With the reason."""
    assert isinstance(decode(json.dumps(content)), BadWakeUp)


def test_a_huge_body_is_not_parsed() -> None:
    """The size is checked first, so a huge message is cheap."""
    assert decode(b"[" * (MAX_BODY_BYTES + 1)) is BadWakeUp.TOO_LARGE
    assert decode(b"[" * MAX_BODY_BYTES) is BadWakeUp.NOT_JSON


def test_an_unknown_field_is_refused() -> None:
    """A message that carries more than a wake-up is malformed."""
    body = json.dumps([[], {"job_id": "a", "fence": 0, "priority": "batch", "callable": "os.system"}, {}])
    assert decode(body) is BadWakeUp.WRONG_SHAPE
