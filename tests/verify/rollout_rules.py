"""Rules of rollouts: no turn of the journal is sampled again. Standard library only."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tests.verify.history import Act, History, Owner, Violation, name_of, owner_of

REUSED = "training.rollouts_reused"
Place = tuple[Any, ...]
"""The place of a turn in its job: step, group, member and number; of an evaluation or not."""


def _place(turn: Act) -> Place:
    return (turn["evaluated"], turn["step"], turn["group"], turn["member"], turn["turn"])


def _age(turn: Act) -> tuple[int, int]:
    return (turn["generation"], turn["attempt"])


def check_turns(history: History) -> Iterator[Violation]:
    """An owner finds in the journal all turns that earlier owners were told are written."""
    kept: dict[tuple[str, Any, int], list[tuple[int, Act]]] = defaultdict(list)
    for _, act in history.acts("keep_turn", phase="ok"):
        kept[act["job"], act["evaluated"], act["step"]].append((act["fence"], act))
    for _, act in history.acts("load_turns"):
        found = {(*_place(turn), *_age(turn)) for turn in act["turns"]}
        for fence, turn in kept[act["job"], act["evaluated"], act["step"]]:
            if fence < act["fence"] and (*_place(turn), *_age(turn)) not in found:
                yield Violation("turns", name_of(owner_of(act)), f"turn {_place(turn)} of fence {fence} is missing")


def check_samples(history: History) -> Iterator[Violation]:
    """No owner asks for a turn that it has found in the journal or has written there; except for one whose recorded
    sequence has ended with the session of an earlier run, and only as many as the owner has reported. A later
    attempt is another: the environment has not repeated itself."""
    for party, acts in history.parties.items():
        known: dict[Owner, dict[Place, Act]] = defaultdict(dict)
        reported: dict[tuple[Owner, int], int] = {}
        anew: Counter[tuple[Owner, int]] = Counter()
        for act in acts:
            if act["act"] == "event" and act["name"] == REUSED and act["phase"] == "ok":
                # an owner may go through several runs, and reports of each
                place = (owner_of(act), act["data"]["step"])
                reported[place], anew[place] = act["data"]["turns_anew"], 0
            if act["act"] == "load_turns":
                known[owner_of(act)] |= _current(act["turns"])
            if act["act"] == "keep_turn" and act["phase"] == "ok":
                _keep(known[owner_of(act)], act)
            if act["act"] != "sample":
                continue
            owner, earlier = owner_of(act), known[owner_of(act)].get(_place(act))
            if earlier is None or act["attempt"] > earlier["attempt"]:
                continue
            ended = earlier["bound"] and not act["evaluated"] and act["generation"] > earlier["generation"]
            anew[owner, act["step"]] += ended
            if not ended or anew[owner, act["step"]] > reported.get((owner, act["step"]), 0):
                why = "nobody reported that" if ended else "it is in the journal"
                yield Violation("sampled", name_of(owner), f"{party} samples turn {_place(act)} again: {why}")


def _current(turns: Sequence[Act]) -> dict[Place, Act]:
    """The turns of the journal that count. One of a later run, or attempt, has replaced all that followed it; those
    are sampled anew since then, which was reported then."""
    newest: dict[Place, Act] = {}
    for turn in turns:
        _keep(newest, turn)
    for turn in sorted(newest.values(), key=lambda turn: int(turn["turn"])):
        before = newest.get(_place({**turn, "turn": turn["turn"] - 1}))
        if turn["turn"] and (before is None or _age(before) > _age(turn)):
            del newest[_place(turn)]
    return newest


def _keep(known: dict[Place, Act], turn: Act) -> None:
    place = _place(turn)
    if place not in known or _age(turn) >= _age(known[place]):
        known[place] = turn


def check_computed_samples(history: History) -> Iterator[Violation]:
    """The dev server computes each request of a sampler once, and answers a repeated one from its record."""
    keys = {act["key"] for _, act in history.acts("sample")}
    computed = Counter(
        (effect["sampler"], effect["seq_id"])
        for effect in history.effects
        if effect["kind"] == "sample" and not effect["replayed"] and effect["seq_id"] in keys
    )
    for (sampler, key), count in computed.items():
        if count > 1:
            yield Violation("computed", f"sampler {sampler}", f"request {key} was computed {count} times")
