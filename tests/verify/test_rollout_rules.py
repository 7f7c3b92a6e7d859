"""The rules of rollouts, each on a history of a few lines: the clean one, and one with a single fault."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.verify.check import check
from tests.verify.history import History
from tests.verify.rollout_rules import REUSED

Act = dict[str, Any]


def _turn(number: int, generation: int = 1, attempt: int = 0, *, bound: bool = False) -> Act:
    place = {"step": 1, "group": 0, "member": 0, "turn": number, "evaluated": False}
    return {**place, "generation": generation, "attempt": attempt, "bound": bound}


def _ask(fence: int, number: int, generation: int = 1, attempt: int = 0) -> Act:
    asked = _turn(number, generation, attempt)
    return {"act": "sample", "phase": "begin", "job": "j", "fence": fence, "key": number, **asked}


def _keep(fence: int, number: int, generation: int = 1, attempt: int = 0, *, bound: bool = False) -> Act:
    kept = _turn(number, generation, attempt, bound=bound)
    return {"act": "keep_turn", "phase": "ok", "job": "j", "fence": fence, **kept}


def _load(fence: int, *turns: Act) -> Act:
    return {
        "act": "load_turns", "phase": "ok", "job": "j", "fence": fence,
        "step": 1, "evaluated": False, "turns": list(turns),
    }  # fmt: skip


def _say(fence: int, turns_anew: int) -> Act:
    data = {"step": 1, "turns_anew": turns_anew}
    return {"act": "event", "phase": "ok", "job": "j", "fence": fence, "name": REUSED, "data": data}


def _history(second: list[Act], *, bound: bool = False) -> History:
    """The first owner keeps a turn and is killed while it asks for another; the second one goes on."""
    first = [_load(1), _ask(1, 0), _keep(1, 0, bound=bound), _ask(1, 1)]
    claims = {
        party: {"act": "claim", "phase": "ok", "job": "j", "fence": fence, "worker": party, "attempt": 1}
        for party, fence in (("first", 1), ("second", 2))
    }
    effects = [
        {"n": n, "kind": "sample", "model_id": None, "seq_id": key, "sampler": "s", "replayed": replayed}
        for n, (key, replayed) in enumerate([(0, False), (1, False), (1, True)])
    ]
    reclaimed = {"act": "reclaim", "phase": "ok", "job": "j", "fence": 1, "reason": "worker_absent"}
    parties = {"first": [claims["first"], *first], "second": [reclaimed, claims["second"], *second]}
    submitted = {"act": "submit", "phase": "ok", "jobs": [{"job": "j", "key": "k", "answer": "j", "created": True}]}
    begun = {"act": "submit", "phase": "begin", "jobs": [{"job": "j", "key": "k"}]}
    return History({**parties, "client": [begun, submitted]}, effects)


CLEAN = {
    "what is missing is sampled": _history([_load(2, _turn(0)), _say(2, 0), _ask(2, 1), _keep(2, 1)]),
    "an environment that did not repeat itself": _history([_load(2, _turn(0)), _ask(2, 0, attempt=1)]),
    "sequences that ended twice while an owner had the job": _history(
        [
            *(_load(2, _turn(0, bound=True)), _say(2, 1), _ask(2, 0, 2), _keep(2, 0, 2, bound=True)),
            *(_load(2, _turn(0, bound=True), _turn(0, 2, bound=True)), _say(2, 1), _ask(2, 0, 3)),
        ],
        bound=True,
    ),
    "a turn that another run has given up": _history(
        [
            _load(2, _turn(0, bound=True), _turn(1, bound=True), _turn(0, 2, bound=True)),
            *(_say(2, 1), _ask(2, 0, 3), _keep(2, 0, 3, bound=True), _ask(2, 1, 3)),
        ],
        bound=True,
    ),
    "a sequence that ended, and that is reported": _history(
        [_load(2, _turn(0, bound=True)), _say(2, 1), _ask(2, 0, generation=2)], bound=True
    ),
}


@pytest.mark.parametrize("name", CLEAN)
def test_owners_that_sample_what_is_missing_violate_nothing(name: str) -> None:
    assert check(CLEAN[name]) == []


FAULTS = {
    "a turn that is lost": ("turns", [_load(2)]),
    "a turn of the journal is sampled": ("sampled", [_load(2, _turn(0)), _ask(2, 0)]),
    "a turn of its own is sampled": ("sampled", [_load(2, _turn(0)), _keep(2, 1), _ask(2, 1)]),
    "in another run, without a session that ended": (
        "sampled",
        [_load(2, _turn(0)), _say(2, 1), _ask(2, 0, generation=2)],
    ),
    "a sequence that ended, and nobody reports it": (
        "sampled",
        [_load(2, _turn(0, bound=True)), _say(2, 0), _ask(2, 0, generation=2)],
    ),
    "more than was reported": (
        "sampled",
        [
            *(_load(2, _turn(0, bound=True), _turn(1, bound=True)), _say(2, 1)),
            *(_ask(2, 0, generation=2), _ask(2, 1, generation=2)),
        ],
    ),
    "a sequence of the same session": ("sampled", [_load(2, _turn(0, bound=True)), _say(2, 1), _ask(2, 0)]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_breaks_its_rule(name: str) -> None:
    rule, second = FAULTS[name]
    assert rule in {violation.rule for violation in check(_history(second))}


def test_a_request_that_is_computed_twice_is_found() -> None:
    history = CLEAN["what is missing is sampled"]
    repeat: Callable[[Act], Act] = lambda effect: effect | {"replayed": False}  # noqa: E731
    again = History(history.parties, [repeat(effect) for effect in history.effects])
    assert {violation.rule for violation in check(again)} == {"computed"}
