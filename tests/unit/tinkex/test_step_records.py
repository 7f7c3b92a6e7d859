"""What a step reports, from what the service has returned."""

import pytest

from backends.tinkex.step_records import reported_loss
from backends.tinkex.types import ForwardBackwardOutput, TensorData
from crucible.errors import MalformedAnswer
from crucible.training import Datum, OptimizerSpec, StepRequest

INPUTS = {"target_tokens": [2, 3], "weights": [1.0, 3.0]}
REQUEST = StepRequest(
    step=1,
    batch=[Datum(tokens=[1, 2], loss_inputs=INPUTS)],
    loss_fn="cross_entropy",
    optimizer=OptimizerSpec(learning_rate=0.1),
)


@pytest.mark.parametrize("logprobs", [[], [-1.0], [-1.0, -2.0, -3.0]])
def test_logprobs_of_other_tokens_are_no_loss(logprobs: list[float]) -> None:
    """A server that returns too few or too many has broken the protocol, and the error says so."""
    output = ForwardBackwardOutput(loss_fn_outputs=[{"logprobs": TensorData(data=logprobs, dtype="float32")}])

    with pytest.raises(MalformedAnswer, match=rf"{len(logprobs)} logprobs of datum 0, which has 2 weights"):
        reported_loss(REQUEST, output)


def test_the_loss_is_the_weighted_mean() -> None:
    """Of the log-probabilities, whatever metrics say."""
    output = ForwardBackwardOutput(
        loss_fn_outputs=[{"logprobs": TensorData(data=[-1.0, -2.0], dtype="float32")}], metrics={"loss:mean": 9.0}
    )

    assert reported_loss(REQUEST, output) == 1.75
