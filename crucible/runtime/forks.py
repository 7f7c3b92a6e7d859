"""Resets after a fork: in the child, an object drops the threads, locks, event loops and sockets of the parent.

A function passed to ``os.register_at_fork`` can never be unregistered. This module registers a single one, at first
use, and holds only weak references to the resets that it calls.
"""

import os
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any
from weakref import ReferenceType, WeakMethod, ref

_resets: dict[tuple[int, int], ReferenceType[Any]] = {}
_inherited: list[object] = []


def reset_after_fork(reset: Callable[[], None]) -> None:
    """Call ``reset``, a bound method or a function of a module, in every forked child while its object lives.

    A reset runs before any other code of the child, in its only thread. It must be idempotent, and replace locks
    instead of acquiring them: a thread that held one no longer exists. Registering twice has no effect.
    """
    _register_hook()
    owner = reset.__self__ if isinstance(reset, MethodType) else reset
    function = reset.__func__ if isinstance(reset, MethodType) else reset
    key = (id(owner), id(function))

    def forget(_: ReferenceType[Any]) -> None:
        _resets.pop(key, None)

    _resets[key] = WeakMethod(reset, forget) if isinstance(reset, MethodType) else ref(reset, forget)


def retain_inherited(*resources: object) -> None:
    """Keep a parent's connections and files alive in the child, where garbage collection would close them."""
    _inherited.extend(resource for resource in resources if resource is not None)


@cache
def _register_hook() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_all)


def _reset_all() -> None:
    for reference in list(_resets.values()):
        reset = reference()
        if reset is not None:
            reset()
