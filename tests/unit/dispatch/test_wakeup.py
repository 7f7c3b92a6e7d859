"""The message on the wire."""

import json

from hypothesis import given
from hypothesis import strategies as st

from nsai_work.dispatch.wakeup import MAX_BODY_BYTES, BadWakeUp, decode, encode
from nsai_work.job import Priority
from nsai_work.store.records import WakeUp

wake_ups = st.builds(
    WakeUp,
    job_id=st.text(min_size=1, max_size=64),
    fence=st.integers(0, 2**53 - 1),
    priority=st.sampled_from(Priority),
    traceparent=st.none() | st.text(max_size=100),
)


@given(wake_ups)
def test_what_is_encoded_is_decoded(wake: WakeUp) -> None:
    """A wake-up survives the wire unchanged."""
    assert decode(encode(wake).body) == wake


@given(st.binary(max_size=200) | st.text(max_size=200) | st.integers() | st.none())
def test_rubbish_is_named_and_never_raises(body: object) -> None:
    """Whatever lies on the queue, decoding gives a wake-up or a reason."""
    assert isinstance(decode(body), WakeUp | BadWakeUp)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), st.lists, max_leaves=10))
def test_any_json_that_is_no_wake_up_is_refused(content: object) -> None:
    """JSON of another shape is refused as such."""
    assert isinstance(decode(json.dumps(content)), BadWakeUp)


def test_a_huge_body_is_not_parsed() -> None:
    """Size is looked at first, so a huge message costs nothing."""
    assert decode(b"[" * (MAX_BODY_BYTES + 1)) is BadWakeUp.TOO_LARGE
    assert decode(b"[" * MAX_BODY_BYTES) is BadWakeUp.NOT_JSON


def test_a_field_too_many_is_refused() -> None:
    """Only our own schema is taken: nothing else can be smuggled to a worker."""
    body = json.dumps([[], {"job_id": "a", "fence": 0, "priority": "batch", "callable": "os.system"}, {}])
    assert decode(body) is BadWakeUp.WRONG_SHAPE
