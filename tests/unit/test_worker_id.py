"""A worker's identity: a dead process of this machine is known as dead, and nobody else ever is."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.worker_id import WorkerId, known_dead

SAY_WHO = "from nsai_work.worker_id import WorkerId; print(WorkerId.of_this_process(), flush=True); input()"


def test_this_process_lives() -> None:
    """Who asks is alive, and its identity survives being written down."""
    me = WorkerId.of_this_process()

    assert WorkerId.parse(str(me)) == me
    assert not known_dead(str(me))


def test_a_killed_process_is_known_as_dead() -> None:
    """From the moment it is killed, also before anybody has waited for it."""
    with subprocess.Popen(
        [sys.executable, "-c", SAY_WHO], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert not known_dead(name)

        process.kill()
        process.wait(30)

        assert known_dead(name)


def test_a_process_that_took_over_the_number_is_another() -> None:
    """The same process id with another start is not the worker."""
    me = WorkerId.of_this_process()

    assert known_dead(str(dataclasses.replace(me, started=me.started - 1)))


@pytest.mark.parametrize("field", ["host", "boot", "namespace"])
def test_elsewhere_nobody_can_tell(field: str) -> None:
    """On another host, after another boot or in another container a process may live."""
    gone = dataclasses.replace(WorkerId.of_this_process(), pid=2**22 - 1)

    assert known_dead(str(gone))
    assert not known_dead(str(dataclasses.replace(gone, **{field: "elsewhere"})))


@given(st.text(max_size=40))
def test_what_is_no_identity_is_never_dead(text: str) -> None:
    """Foreign names say nothing about a process."""
    assert not known_dead(text)
