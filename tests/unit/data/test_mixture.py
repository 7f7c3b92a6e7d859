"""The order of a mixture follows from seed and step alone."""

import os
import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.data.mixture import Mixture
from nsai_work.errors import InvalidJob

DIGEST = "37ecec54564faa141ef90955b5a8f46bf666d5273a3c609923b76dc44120b6b9"
"""Of the first 5,000 draws of a mixture of three. It must never change: running jobs would take other examples."""

SCRIPT = (
    "from hashlib import sha256; from nsai_work.data.mixture import Mixture;"
    "print(sha256(repr([Mixture.of([3, 1, 0.25], 7).draw(n) for n in range(5000)]).encode()).hexdigest())"
)


def test_the_order_is_that_of_the_digest() -> None:
    """In this process, in any order of asking."""
    mixture = Mixture.of([3, 1, 0.25], 7)
    draws = {number: mixture.draw(number) for number in reversed(range(5000))}
    assert sha256(repr([draws[number] for number in range(5000)]).encode()).hexdigest() == DIGEST


@pytest.mark.parametrize("hash_seed", ["0", "31337"])
def test_the_order_is_that_of_any_process(hash_seed: str) -> None:
    """Whatever PYTHONHASHSEED."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == DIGEST


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_each_source_is_drawn_in_turn_and_by_its_share(weights: list[float], seed: int, block: int) -> None:
    """In each block exactly; the draws of a source count up without a gap."""
    mixture = Mixture.of(weights, seed)
    drawn = [mixture.draw(number) for number in range(block * mixture.block, (block + 1) * mixture.block)]
    for source, weight in enumerate(weights):
        earlier = [place for found, place in drawn if found == source]
        begin = block * mixture.counts[source]
        assert earlier == list(range(begin, begin + mixture.counts[source]))
        assert abs(len(earlier) - weight / sum(weights) * mixture.block) < 1


def test_a_source_that_would_never_be_drawn_is_refused() -> None:
    """It would be data that changes nothing."""
    with pytest.raises(InvalidJob, match=r"payload.data.sources\[1\].weight: 1e-06 is not allowed.*never be drawn"):
        Mixture.of([1.0, 1e-6], 0)
