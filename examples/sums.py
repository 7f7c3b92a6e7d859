"""The reward of a sum: 1 for the right digit, a part of it for another one, 0 for anything else."""


def reward(prompt: str, completion: str, *, answer: int) -> float:
    """Return the reward of an answer to a sum of one digit."""
    text = completion.strip()
    if len(text) != 1 or text not in "0123456789":
        return 0.0
    missed = abs(int(text) - answer)
    return 1.0 if missed == 0 else 0.1 * (1.0 - missed / 9)
