"""Resets after a fork: in the child, an object drops the threads, locks, event loops and sockets of the parent.

A function passed to ``os.register_at_fork`` can never be unregistered. This module registers a single one, at first
use, and holds only weak references to the resets that it calls.
"""

import os
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any, TypeAlias
from weakref import ReferenceType, ref

_Reset: TypeAlias = tuple[ReferenceType[Any], Callable[[Any], object] | None]

_resets: dict[tuple[int, int], _Reset] = {}
_inherited: list[object] = []


def reset_after_fork(reset: Callable[[], None]) -> None:
    """Call ``reset``, a bound method or a function of a module, in every forked child while its object lives.

    A reset runs before any other code of the child, in its only thread. It must be idempotent, and replace locks
    instead of acquiring them: a thread that held one no longer exists. Registering twice has no effect.
    """
    _register_hook()
    owner = reset.__self__ if isinstance(reset, MethodType) else reset
    function = reset.__func__ if isinstance(reset, MethodType) else None
    key = (id(owner), id(function))

    # bound here: at the end of the interpreter the module's names are gone before the last objects. A WeakMethod's
    # own callback fails then
    def forget(_: ReferenceType[Any], resets: dict[tuple[int, int], _Reset] = _resets) -> None:
        resets.pop(key, None)

    _resets[key] = ref(owner, forget), function


def retain_inherited(*resources: object) -> None:
    """Keep a parent's connections and files alive in the child, where garbage collection would close them."""
    _inherited.extend(resource for resource in resources if resource is not None)


@cache
def _register_hook() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_all)


def _reset_all() -> None:
    for reference, function in list(_resets.values()):
        owner = reference()
        if owner is not None:
            owner() if function is None else function(owner)
