"""Results of forward and backward passes."""

from pydantic import Field

from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.types.wire_record import ReadRecord


class ForwardBackwardOutput(ReadRecord):
    """The result of a pass: named arrays per datum (``logprobs``, ``elementwise_loss``, ...) and batch metrics.

    The suffix of a metric's name defines how chunks are joined: ``:sum``, ``:mean``, ``:max`` and so on.
    """

    loss_fn_output_type: str = ""
    loss_fn_outputs: list[dict[str, TensorData]] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
