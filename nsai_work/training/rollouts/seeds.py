"""Seeds and request keys of rollouts. A seed follows from the job's seed and the place of a sample alone, so that
it is the same for every owner and in every run of the job; a key names one request of one remote run."""

from hashlib import blake2b
from typing import Final

_BITS: Final = 53
"""The bits of an integer that every JSON reader keeps."""


def derived(*parts: object) -> int:
    """Return a number from 0 to 2^53 - 1 that the parts determine."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> (64 - _BITS)


def episode_seed(seed: int, step: int, group: int) -> int:
    """Return the seed of the episodes of a group, whose members see the same problem."""
    return derived("episode", seed, step, group)


def sample_seed(seed: int, step: int, group: int, member: int, turn: int) -> int:
    """Return the seed of the sample of a turn."""
    return derived("sample", seed, step, group, member, turn)


def sample_key(job_id: str, generation: int, step: int, group: int, member: int, attempt: int, turn: int) -> int:
    """Return the key of the request for a turn."""
    return derived("key", job_id, generation, step, group, member, attempt, turn)
