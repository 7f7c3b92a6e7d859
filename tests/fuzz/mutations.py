"""What the fuzz tests share: hostile JSON and bytes, the number of inputs, and a bound on memory.

``NSAI_FUZZ`` sets the number of inputs of each test, here to 5,000 at most; by default it is small.
"""

import os
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INPUTS = min(5_000, int(os.environ.get("NSAI_FUZZ", "25")))
MAX_GROWTH_BYTES = 200 << 20

fuzzed = settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 10**30, 0, -1, 429, "429"])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["\x1b[31m", "\ud800", "\u202e", "", " ", "nan", "corrupted", "not found", "x" * 5000])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn, base: Any) -> Any:
    """A value with some of its parts replaced, removed or repeated."""
    if draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    if isinstance(base, dict):
        found = {}
        for name, value in base.items():
            choice = draw(st.integers(0, 11))
            if choice:
                found[draw(st.text(max_size=8)) if choice == 1 else name] = draw(mutated(value))
        return found
    if isinstance(base, list):
        items = [draw(mutated(item)) for item in base]
        return items * draw(st.sampled_from([1, 1, 1, 0, 2, 3]))
    return base


@st.composite
def mutated_bytes(draw: st.DrawFn, base: bytes) -> bytes:
    """Bytes with some of them flipped, cut, inserted or repeated."""
    data = bytearray(base)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at:]
            case 2:
                data[at:at] = draw(st.binary(max_size=8))
            case 3:
                data[at:at] = data[at : at + draw(st.integers(0, 40))]
            case _:
                del data[at : at + draw(st.integers(0, 8))]
    return bytes(data)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail if more than the bound is allocated at a time. The long form looks at the whole process; the short form
    at what Python allocates, as other tests share its process. What hypothesis keeps at its first draws does not
    count."""
    _draw_once()
    if "NSAI_FUZZ" in os.environ:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    else:
        tracemalloc.start()
        try:
            yield
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert grown < MAX_GROWTH_BYTES, f"{grown:,} bytes"


@settings(max_examples=20, database=None, deadline=None)
@given(st.tuples(st.text(), st.integers(), st.binary(), st.floats()))
def _draw_once(_drawn: object) -> None:
    """Nothing is tested."""
