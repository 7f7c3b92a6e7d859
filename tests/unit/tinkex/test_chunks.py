"""Large batches in chunks, small results in one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex.types import ClientConfig, Datum, ForwardBackwardOutput, ModelInput
from backends.tinkex.wire.chunks import chunked, datum_bytes, joined, joined_metrics


def datum(length: int) -> Datum:
    """20 bytes a position: a token, a target and two numbers."""
    ids = np.zeros(length, dtype=np.int32)
    floats = np.zeros(length, dtype=np.float32)
    return Datum(
        model_input=ModelInput.from_ints(ids),
        loss_fn_inputs={"target_tokens": ids, "weights": floats, "logprobs": floats.tolist()},
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 10), st.integers(1, 3000))
def test_chunks_keep_the_order_and_the_limits(lengths: list[int], count: int, size: int) -> None:
    """Nothing is lost or moved; a chunk beyond the bytes is a single datum."""
    data = [datum(length) for length in lengths]
    config = ClientConfig(fwdbwd_max_chunk_len=count, fwdbwd_max_chunk_bytes_count=size)

    chunks = chunked(data, config)

    assert [datum for chunk in chunks for datum in chunk] == data
    for chunk in chunks:
        assert 1 <= len(chunk) <= count
        assert len(chunk) == 1 or sum(map(datum_bytes, chunk)) <= size


def test_lists_and_arrays_are_split_alike() -> None:
    """What holds the numbers does not matter."""
    assert datum_bytes(datum(7)) == 7 * 20


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("sum", 9.0), ("mean", 17 / 4), ("min", 1.0), ("max", 5.0), ("slack", 5 - 17 / 4), ("hash2", 9)],
)
def test_metrics_are_joined_by_their_suffix(suffix: str, expected: float) -> None:
    """A mean is weighted by the datums of its chunk."""
    chunks = [{f"a:{suffix}": 1.0}, {f"a:{suffix}": 3.0}, {f"a:{suffix}": 5.0}]
    weights = [1, 2, 1] if suffix not in ("mean", "slack") else [0, 1, 1]
    if suffix in ("mean", "slack"):
        chunks, weights = [{f"a:{suffix}": 2.0}, {f"a:{suffix}": 5.0}], [1, 3]

    assert joined_metrics(chunks, weights)[f"a:{suffix}"] == pytest.approx(expected)


def test_odd_metrics_are_left_out() -> None:
    """A suffix that is not known, or a metric that only one chunk has, is not guessed."""
    assert joined_metrics([{"a:odd": 1.0, "b:sum": 1.0, "c": 1.0}, {"a:odd": 1.0, "c": 2.0}], [1, 1]) == {}
    assert joined_metrics([{"a:unique": 1.0}, {"a:unique": 2.0}], [1, 1]) == {"a:unique": 1.0, "a:unique_1": 2.0}
    assert joined_metrics([{"a:mean": 1.0}, {"a:mean": 3.0}], [0, 0]) == {"a:mean": 2.0}


def test_one_result_stays_as_it_is() -> None:
    """A batch that was not split keeps every metric."""
    output = ForwardBackwardOutput(metrics={"odd": math.pi})

    assert joined([output]) is output
