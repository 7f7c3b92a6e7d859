"""The acts of reinforcement learning in a history: turns that are read, sampled and kept, and what is reported."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

WrapWrite = Callable[[type, str, Callable[..., dict[str, object]]], None]
"""Wraps a method of the journal, whose act has the facts that the function returns."""


def install_rollouts(recorder: Any, owner: Callable[[], Mapping[str, Any]], wrap_write: WrapWrite) -> None:
    """Wrap the acts of this worker on rollouts. ``owner`` returns the owner that acts."""
    from nsai_work.store.journal.adapter import StoreJournal
    from nsai_work.training.rollouts.episodes import rollout

    wrap_write(StoreJournal, "keep_turn", _place)
    wrap_write(StoreJournal, "event", lambda name, data: {"name": name, "data": data})
    read: Callable[..., Awaitable[Any]] = StoreJournal.rollouts

    @functools.wraps(read)
    async def rollouts(self: Any, step: int, *, evaluated: bool = False) -> Any:
        found = await read(self, step, evaluated=evaluated)
        recorder.write(
            "load_turns",
            "ok",
            job=self._claim.job_id,
            fence=self._claim.fence,
            step=step,
            evaluated=evaluated,
            turns=[_place(turn) for turn in found.turns],
        )
        return found

    StoreJournal.rollouts = rollouts  # type: ignore[method-assign]
    ask: Callable[..., Awaitable[None]] = rollout._sample

    @functools.wraps(ask)
    async def sample(under_way: Any, *args: Any, **options: Any) -> None:
        place, attempt, turn = under_way.place, under_way.attempt, len(under_way.turns)
        asked = {
            "step": place.step,
            "evaluated": place.evaluated,
            "generation": place.generation,
            "group": place.group,
            "member": place.member,
            "attempt": attempt,
            "turn": turn,
            "key": place.sample_key(attempt, turn),
        }
        recorder.write("sample", "begin", **owner(), **asked)
        await ask(under_way, *args, **options)

    rollout._sample = sample


def _place(turn: Any) -> dict[str, object]:
    from nsai_work.training.rollouts.episodes.turns import unpacked

    # a recorded sequence ends with its session
    return {**turn.model_dump(exclude={"data"}), "bound": unpacked(turn).sequence_id is not None}
