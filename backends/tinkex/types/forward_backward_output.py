"""What a forward or forward_backward pass gave."""

import math

from pydantic import Field

from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.types.wire_record import ReadRecord


class ForwardBackwardOutput(ReadRecord):
    """For each datum its named arrays (``logprobs``, ``elementwise_loss``, ...), and metrics of the batch.

    A metric's name ends in how it is joined over chunks: ``:sum``, ``:mean``, ``:max`` and so on.
    """

    loss_fn_output_type: str = ""
    loss_fn_outputs: list[dict[str, TensorData]] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """False when a metric is NaN or infinite: the sign of a poisoned run that some servers give alone."""
        return all(math.isfinite(value) for value in self.metrics.values())
