"""Rollouts to read: their messages, rewards, and why they ended."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import JsonValue

from nsai_work.journal.rollouts import RolloutRecord, StoredTurn
from nsai_work.store import Store
from nsai_work.training.rollouts.episodes.turns import current_turns


def read_rollouts(
    store: Store, job_id: str, step: int, *, evaluated: bool = False
) -> Iterator[dict[str, JsonValue]]:
    """Yield the rollouts of a step, or of its evaluation, with their messages, in order.

    Raises:
        JobNotFound: there is no such job.
        UnreadableJournal: a row of the store is damaged.
    """
    records = store.rollouts(job_id, step, evaluated=evaluated)
    turns = store.rollout_turns(job_id, step, evaluated=evaluated)
    for record, messages in with_messages(records, turns):
        yield {**record.model_dump(mode="json"), "messages": [*messages]}


def with_messages(
    records: Iterable[RolloutRecord], stored: Sequence[StoredTurn]
) -> Iterator[tuple[RolloutRecord, list[dict[str, Any]]]]:
    """Yield rollouts of a step with their messages, from the turns of that step.

    Raises:
        UnreadableJournal: a turn is damaged.
    """
    for record in records:
        own = [
            turn
            for turn in stored
            if (turn.group, turn.member) == (record.group, record.member) and turn.generation <= record.generation
        ]
        turns, _ = current_turns(own)
        yield record, [message for turn in turns for message in (*turn.messages, turn.answer)]
