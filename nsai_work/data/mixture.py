"""Mixtures: which source each draw of a mixture takes its example from, and which of its examples.

Draws are made in blocks, in each of which every source has its share exactly, in an order that a hash gives. So a
draw follows from its number, the seed and the weights alone, on every machine and in every process.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from nsai_work.errors import InvalidJob

_SMALLEST_BLOCK: Final = 1_024
_LARGEST_BLOCK: Final = 65_536


@dataclass(frozen=True, slots=True)
class Mixture:
    """The order of a mixture. ``counts`` are the draws from each source in a block."""

    counts: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, weights: Sequence[float], seed: int) -> "Mixture":
        """Return the mixture of sources with these weights.

        Raises:
            InvalidJob: a source's share is too small to be drawn.
        """
        block = _SMALLEST_BLOCK
        while min(counts := _apportioned(weights, block)) == 0:
            block *= 2
            if block > _LARGEST_BLOCK:
                place = counts.index(0)
                raise InvalidJob.of(
                    f"payload.data.sources[{place}].weight",
                    weights[place],
                    f"its share of the mixture is below 1 in {_LARGEST_BLOCK}, so that it would never be drawn",
                )
        return cls(tuple(counts), seed)

    @property
    def block(self) -> int:
        """The draws of a block."""
        return sum(self.counts)

    def draw(self, number: int) -> tuple[int, int]:
        """Return the source of a draw, and how many earlier draws took that source. Draws count from 0."""
        block, place = divmod(number, self.block)
        order, places = _block(self.counts, self.seed, block)
        source = order[place]
        return source, block * self.counts[source] + bisect_left(places[source], place)


def _apportioned(weights: Sequence[float], block: int) -> list[int]:
    """The draws of each source in a block, by largest remainders."""
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * block / total for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: (counts[place] - exact[place], place))
    for place in by_remainder[: block - sum(counts)]:
        counts[place] += 1
    return counts


@lru_cache(maxsize=16)
def _block(counts: tuple[int, ...], seed: int, block: int) -> tuple[Sequence[int], Sequence[Sequence[int]]]:
    """The source of each place of a block, and the places of each source."""
    sources = [source for source, count in enumerate(counts) for _ in range(count)]
    order = array("H", [sources[index] for index in hashed_order(len(sources), f"mixture:{seed}:{block}")])
    places = [array("L") for _ in counts]
    for place, source in enumerate(order):
        places[source].append(place)
    return order, places


def hashed_order(count: int, key: str) -> list[int]:
    """Return the numbers up to ``count`` in an order given by a hash, equal on every machine and Python version."""
    packed = blake2b(key.encode(), digest_size=32).digest()
    return sorted(range(count), key=lambda index: blake2b(index.to_bytes(8), digest_size=16, key=packed).digest())
