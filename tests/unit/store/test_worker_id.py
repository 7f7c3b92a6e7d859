"""A worker's identity."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.store.worker_id import WorkerId, is_this_process


def test_an_identity_survives_being_written_down() -> None:
    """It names this process, also with the nonce of another runtime in it."""
    me = WorkerId.of_this_process()

    assert WorkerId.parse(str(me)) == me
    assert is_this_process(str(dataclasses.replace(me, nonce="other")))


@pytest.mark.parametrize("field", ["host", "boot", "namespace", "pid", "started"])
def test_another_process_is_another(field: str) -> None:
    """The same process id elsewhere, or with another start, is not this process."""
    me = WorkerId.of_this_process()
    other = me.started + 1 if field in ("pid", "started") else "elsewhere"

    assert not is_this_process(str(dataclasses.replace(me, **{field: other})))


@given(st.text(max_size=40))
def test_what_is_no_identity_names_no_process(text: str) -> None:
    """Foreign names say nothing about a process."""
    assert not is_this_process(text)
