"""A batch is refused before anything is sent, with the place of what is wrong."""

from typing import Any

import numpy as np
import pytest

from backends.tinkex.client.training.batch_checks import check_batch
from backends.tinkex.types import Datum, ImageChunk, ModelInput
from crucible.errors import InvalidRequest


def datum(tokens: Any = (1, 2, 3), **inputs: Any) -> Datum:
    """A datum that is fine unless told otherwise."""
    loss_inputs = {"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0], **inputs}
    return Datum(model_input=ModelInput.from_ints(tokens), loss_fn_inputs=loss_inputs)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        pytest.param([], "data", id="empty batch"),
        pytest.param("text", "data[0]", id="text"),
        pytest.param(None, "data", id="nothing"),
        pytest.param([datum(), {"model_input": 1}], "data[1]", id="no datum"),
        pytest.param([datum(weights=[1.0, 1.0])], "data[0].loss_fn_inputs.weights", id="length"),
        pytest.param([datum(weights=np.ones((2, 3)))], "data[0].loss_fn_inputs.weights", id="length of rows"),
        pytest.param([datum(weights=[1.0, NAN, 1.0])], "data[0].loss_fn_inputs.weights", id="NaN"),
        pytest.param(
            [datum(weights=np.asarray([1.0, NAN, 1.0]))], "data[0].loss_fn_inputs.weights", id="NaN, array"
        ),
        pytest.param([datum(weights=[INF, -INF, 1.0])], "data[0].loss_fn_inputs.weights", id="infinities"),
        pytest.param([datum(logprobs=[NAN, 0.0, 0.0])], "data[0].loss_fn_inputs.logprobs", id="NaN logprob"),
        pytest.param([datum(tokens=[1, -1, 2])], "data[0].model_input.chunks[0].tokens", id="negative token"),
        pytest.param([datum(tokens=[1, 320, 2])], "data[0].model_input.chunks[0].tokens", id="outside"),
        pytest.param([datum(tokens=["a", "b", "c"])], "data[0].model_input.chunks[0].tokens", id="text tokens"),
        pytest.param([datum(tokens=[1.5, 2, 3])], "data[0].model_input.chunks[0].tokens", id="fraction"),
        pytest.param(
            [datum(target_tokens=[1, 2, 320])], "data[0].loss_fn_inputs.target_tokens", id="target outside"
        ),
        pytest.param(
            [Datum(model_input=ModelInput.empty(), loss_fn_inputs={})], "data[0].model_input", id="empty input"
        ),
    ],
)
def test_what_is_wrong_is_named(data: Any, field: str) -> None:
    """Down to the tensor."""
    with pytest.raises(InvalidRequest) as caught:
        check_batch(data, vocab_size=320)

    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "good",
    [
        pytest.param(datum(), id="lists"),
        pytest.param(datum(tokens=np.asarray([1, 2, 3]), weights=np.ones(3)), id="arrays"),
        pytest.param(datum(weights=[3.0e38, 3.0e38, 3.0e38]), id="a sum beyond float32"),
        pytest.param(datum(weights=np.full(3, 3.0e38, np.float32)), id="a sum beyond float32, array"),
        pytest.param(datum(logprobs=[-INF, 0.0, 0.0]), id="a masked logprob"),
        pytest.param(datum(target_tokens=np.zeros((3, 2), np.int64), weights=np.zeros((3, 2))), id="rows"),
        pytest.param(
            Datum(
                model_input=ModelInput.from_ints([1]).append(ImageChunk(data=b"x", format="png")),
                loss_fn_inputs={"weights": [1.0] * 20, "target_tokens": [1] * 20},
            ),
            id="an image of unknown length",
        ),
    ],
)
def test_what_is_right_passes(good: Datum) -> None:
    """Large, masked and shaped numbers are not mistaken for bad ones."""
    check_batch([good], vocab_size=320)
