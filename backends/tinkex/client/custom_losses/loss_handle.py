"""Losses of one example that a session has: stored at the server, or computed by the client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backends.tinkex.errors import invalid
from backends.tinkex.types.arrays import is_torch
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.requests import CustomLossInput

DatumLoss = Callable[..., tuple[Any, dict[str, Any]]]
"""``loss(logprobs, *inputs)``: the scalar loss of one example, and scalar metrics named ``custom/NAME:sum`` or
``custom/NAME:mean``."""
_MEAN: Final = ":mean"


@dataclass(frozen=True)
class LossHandle:
    """A loss that ``ServiceClient.create_custom_loss`` made, for ``TrainingClient.forward_backward_custom``.

    ``inputs`` begins with ``logprobs``, which has the shape of ``target_tokens``; the others are keys of
    ``loss_fn_inputs``. ``loss_id`` is None when the server computes no custom losses; the client then computes
    ``function`` with torch.
    """

    name: str
    inputs: tuple[CustomLossInput, ...]
    session_id: str
    loss_id: str | None = None
    function: DatumLoss | None = field(default=None, repr=False, compare=False)

    def check(self, data: Sequence[Datum], session_id: str | None) -> None:
        """Raise InvalidRequest unless the session is the loss's own and every example has its inputs."""
        if session_id != self.session_id:
            raise invalid("loss_fn", self.name, f"a loss of this run's session; this one is of {self.session_id}")
        for index, datum in enumerate(data):
            for needed in self.inputs:
                key = "target_tokens" if needed is self.inputs[0] else needed.name
                tensor = datum.loss_fn_inputs.get(key)
                rank = None if tensor is None else 1 if tensor.shape is None else len(tensor.shape)
                if rank != needed.rank:
                    found = "nothing" if rank is None else f"rank {rank}"
                    raise invalid(
                        f"data[{index}].loss_fn_inputs.{key}",
                        found,
                        f"{self.name} takes it with rank {needed.rank}",
                    )

    def of_batch(self, data: Sequence[Datum], logprobs: Sequence[Any]) -> tuple[Any, dict[str, float]]:
        """Return the sum of the examples' losses, and their metrics reduced by suffix."""
        assert self.function is not None
        total: Any = 0.0
        metrics: dict[str, float] = {}
        for datum, values in zip(data, logprobs, strict=True):
            inputs = [datum.loss_fn_inputs[needed.name].to_torch() for needed in self.inputs[1:]]
            loss, found = self.function(values, *inputs)
            if getattr(loss, "ndim", None) != 0:
                raise invalid("loss_fn", self.name, "the loss of an example is a tensor without dimensions")
            total = total + loss
            for key, value in found.items():
                metrics[key] = metrics.get(key, 0.0) + float(value.detach() if is_torch(value) else value)
        return total, {key: value / len(data) if key.endswith(_MEAN) else value for key, value in metrics.items()}
