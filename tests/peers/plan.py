"""What a round consists of, as plain JSON, so that two clients can be told to do the very same."""

from typing import Any

Plan = dict[str, Any]

TEXTS = (
    "user: how many cups make a litre?\nassistant: about four and a quarter.",
    "user: what is the closest star?\nassistant: the sun.",
    "user: boil an egg?\nassistant: seven minutes for a firm yolk.",
    "user: name a gas giant.\nassistant: saturn.",
)
DEV_STAGES = ("train", "restore", "sample", "losses", "manage")
LEARNING = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}


def plan(
    base_model: str, *, stages: tuple[str, ...] = DEV_STAGES, steps: int = 6, save_after: int = 3, rank: int = 8
) -> Plan:
    """A round of ``steps`` optimizer steps with a save in the middle; token ids are bytes."""
    return {
        "base_model": base_model,
        "rank": rank,
        "seed": 7,
        "stages": list(stages),
        "steps": steps,
        "save_after": save_after,
        "adam": LEARNING,
        "batches": [[datum(TEXTS[(step + place) % len(TEXTS)]) for place in range(2)] for step in range(steps)],
        "prompt": list(TEXTS[0][:36].encode()),
        "sampling": [
            {"max_tokens": 12, "seed": 11, "temperature": 1.0},
            {"max_tokens": 12, "seed": 11, "temperature": 0.0},
            {"max_tokens": 12, "seed": 5, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
            {"max_tokens": 24, "seed": 3, "temperature": 1.0, "stop": [101]},
        ],
        "top_k": 3,
    }


def datum(text: str) -> dict[str, list[int] | list[float]]:
    """An example whose answer is learnt and whose question is not; every number is exact in 32 bits."""
    tokens = list(text.encode())
    question = text.index("assistant:")
    return {
        "tokens": tokens[:-1],
        "target_tokens": tokens[1:],
        "weights": [1.0 if place >= question else 0.0 for place in range(1, len(tokens))],
        "advantages": [(place % 5 - 2) / 4 if place >= question else 0.0 for place in range(1, len(tokens))],
    }
