"""Selection of the turns that have a loss weight: the modes of ``data.train_on``, named as in tinker-cookbook.

A message's weight counts from its content to the end of its turn; the header before it only in ``all_tokens``.
"""

from collections.abc import Sequence
from functools import lru_cache

from crucible.rendering.tokenizer import TurnWeight
from nsai_work.payloads import TrainOn


@lru_cache(maxsize=4096)
def usual_weights(roles: tuple[str, ...], train_on: TrainOn) -> tuple[TurnWeight, ...]:
    """Return the weights of turns that say nothing of their own."""
    last_user = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    return tuple(
        TurnWeight(
            output=float(_is_trained(role, index, roles, last_user, train_on)),
            header=float(train_on == "all_tokens"),
        )
        for index, role in enumerate(roles)
    )


def _is_trained(role: str, index: int, roles: Sequence[str], last_user: int, train_on: TrainOn) -> bool:
    match train_on:
        case "last_assistant_message":
            return role == "assistant" and index == len(roles) - 1
        case "last_assistant_turn":
            return role == "assistant" and index > last_user
        case "all_assistant_messages":
            return role == "assistant"
        case "all_user_and_system_messages":
            return role in ("user", "system", "developer")
        case "all_messages" | "all_tokens":
            return True
        case "customized":
            return False
