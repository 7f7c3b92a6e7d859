"""The place of a rollout in its job, and what follows from it: seeds, and the keys of its requests.

A seed follows from the job's seed and the place of a sample alone, so that it is the same for every owner and in
every run of the job; those of an evaluation do not depend on its step, so that all evaluations see the same. A key
names one request of one remote run.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_BITS: Final = 53
"""The bits of a seed or a key: the integers that every JSON reader keeps."""


def derived(*parts: object) -> int:
    """Return a number from 0 to 2^53 - 1 that the parts determine."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> (64 - _BITS)


@dataclass(frozen=True, slots=True)
class RolloutPlace:
    """The place of a rollout in a job: the id and the seed of the job, and the numbers of the rollout. An
    ``evaluated`` one belongs to an evaluation."""

    job_id: str
    seed: int
    generation: int
    step: int
    group: int
    member: int
    evaluated: bool = False

    @property
    def episode_seed(self) -> int:
        """The seed of the episodes of the group, whose members see the same problem."""
        if self.evaluated:
            return derived("evaluated episode", self.seed, self.group)
        return derived("episode", self.seed, self.step, self.group)

    def sample_seed(self, turn: int) -> int:
        """Return the seed of the sample of a turn."""
        if self.evaluated:
            return derived("evaluated sample", self.seed, self.group, self.member, turn)
        return derived("sample", self.seed, self.step, self.group, self.member, turn)

    def sample_key(self, attempt: int, turn: int) -> int:
        """Return the key of the request for a turn."""
        kind = "evaluated key" if self.evaluated else "key"
        where = (self.job_id, self.generation, self.step, self.group, self.member)
        return derived(kind, *where, attempt, turn)
