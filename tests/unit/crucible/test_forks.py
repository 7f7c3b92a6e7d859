"""Resets after a fork run in the child alone, and keep no object alive."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from crucible.runtime import forks
from crucible.runtime.forks import reset_after_fork, retain_inherited


class Owner:
    """An object that counts its resets. Equal to every other, so that its hash cannot be what finds it."""

    __hash__ = None

    def __init__(self) -> None:
        self.resets = 0
        reset_after_fork(self.reset)

    def __eq__(self, other: object) -> bool:
        return True

    def reset(self) -> None:
        """One more."""
        self.resets += 1


def code_of_child(body: Callable[[], int]) -> int:
    """The exit code of a forked child that runs ``body``."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = body()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_child_resets_and_the_parent_does_not() -> None:
    """Each object, and a child of the child again."""
    owners = [Owner(), Owner()]

    assert code_of_child(lambda: sum(owner.resets for owner in owners)) == 2
    assert code_of_child(lambda: code_of_child(lambda: owners[0].resets)) == 2
    assert [owner.resets for owner in owners] == [0, 0]


def test_registering_twice_resets_once() -> None:
    """So an object may register whenever it makes what is to be dropped."""
    owner = Owner()
    reset_after_fork(owner.reset)

    assert code_of_child(lambda: owner.resets) == 1


def test_an_object_is_not_kept_alive() -> None:
    """Its reset goes with it."""
    before = set(forks._resets)
    owner = Owner()
    added = forks._resets.keys() - before  # those of other tests may end meanwhile
    assert len(added) == 1

    del owner
    gc.collect()

    assert not added & forks._resets.keys()


def test_a_function_of_a_module_can_be_a_reset() -> None:
    """As long as its module is loaded."""
    reset_after_fork(count)

    assert code_of_child(lambda: len(counted)) == 1
    assert counted == []


counted: list[int] = []


def count() -> None:
    """One more."""
    counted.append(1)


def test_importing_registers_nothing() -> None:
    """The hook is for the rest of a process, which may never use what needs it."""
    code = (
        "import backends.tinkex.client.service, nsai_work.client.connections, nsai_work.store\n"
        "import nsai_work.concurrency.coroutine_runner\n"
        "import nsai_work.dispatch.publisher, nsai_work.dispatch.debounce, nsai_work.worker.runtime_thread\n"
        "from crucible.runtime import forks\n"
        "assert not forks._resets and not forks._register_hook.cache_info().currsize"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_inherited_resources_are_not_closed_in_the_child() -> None:
    """Dropped by a reset, they stay open until the child ends."""
    closed: list[str] = []

    class Connection:
        def __del__(self) -> None:
            closed.append("closed")

    connections = [Connection()]

    def body() -> int:
        retain_inherited(*connections)
        connections.clear()
        gc.collect()
        return len(closed)

    assert code_of_child(body) == 0


def test_an_object_that_outlives_the_module_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the interpreter, where the names of modules become None before the last objects go."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(unraisable.exc_value))
    owner, resets = Owner(), forks._resets
    gc.collect()  # what other tests left behind is not counted
    before = len(resets)
    monkeypatch.setattr(forks, "_resets", None)

    del owner
    gc.collect()

    assert said == []
    assert len(resets) == before - 1
