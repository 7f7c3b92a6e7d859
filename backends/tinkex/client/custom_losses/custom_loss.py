"""Caller-defined losses: a forward pass, the caller's gradient, and a linear loss that has exactly that gradient.

The server's cross entropy is L = sum(-logprobs * weights). Its gradient with respect to the log-probabilities is
-weights, so weights = -dC/dlogprobs makes the server's gradient equal to that of the caller's loss C.
"""

import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from backends.tinkex.client.requests.passes import send_pass
from backends.tinkex.client.training.batch_checks import check_batch
from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.client.training.step_operations import fetch_passes
from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.chunks import chunked
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest
from crucible.errors import MalformedAnswer

CustomLoss = Callable[[Sequence[Datum], Sequence[Any]], tuple[Any, ...]]
_LOSS: Final = "cross_entropy"
_SUM: Final = "loss:sum"


def custom_operation(
    channel: RunChannel, data: Sequence[Datum], loss_fn: CustomLoss, arrays: str | None
) -> RunOperation[ForwardBackwardOutput]:
    """Return the forward pass, the loss and the backward pass as one operation, so that nothing comes in between.
    ``loss_fn`` receives a copy of ``data`` as it is now.

    Raises:
        InvalidRequest: a datum has no ``target_tokens``, or ``arrays`` is neither numpy nor torch.
    """
    check_batch(data, custom_loss=True)
    for index, datum in enumerate(data):
        if "target_tokens" not in datum.loss_fn_inputs:
            raise invalid(f"data[{index}].loss_fn_inputs", sorted(datum.loss_fn_inputs), "target_tokens is needed")
    library = arrays or ("torch" if "torch" in sys.modules else "numpy")
    if library not in ("numpy", "torch"):
        raise invalid("arrays", arrays, "allowed are numpy and torch")
    return _CustomPass(channel, [datum.copied() for datum in data], loss_fn, library).operation()


class _CustomPass:
    """An operation of two requests per chunk: all forward passes, then all backward passes."""

    def __init__(self, channel: RunChannel, data: Sequence[Datum], loss_fn: CustomLoss, library: str) -> None:
        self._channel = channel
        self._data = data
        self._loss_fn = loss_fn
        self._library = library
        self._chunks = chunked([_for_forward(datum) for datum in data], channel.config)
        self._forward: list[AcceptedRequest] = []
        self._backward: list[Sequence[Datum]] = []
        self._metrics: dict[str, float] = {}

    def operation(self) -> RunOperation[ForwardBackwardOutput]:
        return self._channel.operation(2 * len(self._chunks), None, self._send, self._read)

    def _send(self, seq_id: int, index: int) -> Coroutine[Any, Any, AcceptedRequest]:
        return (
            self._send_forward(seq_id, index) if index < len(self._chunks) else self._send_backward(seq_id, index)
        )

    async def _send_forward(self, seq_id: int, index: int) -> AcceptedRequest:
        accepted = await self._send_pass(seq_id, self._chunks[index], forward_only=True)
        self._forward.append(accepted)
        return accepted

    async def _send_backward(self, seq_id: int, index: int) -> AcceptedRequest:
        if not self._backward:
            await self._apply_loss()
        return await self._send_pass(seq_id, self._backward[index - len(self._chunks)], forward_only=False)

    async def _send_pass(self, seq_id: int, data: Sequence[Datum], *, forward_only: bool) -> AcceptedRequest:
        request = PassRequest(self._channel.model_id, seq_id, data, _LOSS, None, forward_only)
        return await send_pass(self._channel.connection, request)

    async def _apply_loss(self) -> None:
        output = await fetch_passes(self._channel, self._forward, forward_only=True)
        if len(output.loss_fn_outputs) != len(self._data):
            raise MalformedAnswer(
                f"forward: {len(output.loss_fn_outputs)} outputs for {len(self._data)} datums", backend=BACKEND
            )
        logprobs = [_logprobs(record, index) for index, record in enumerate(output.loss_fn_outputs)]
        compute = _with_torch if self._library == "torch" else _with_numpy
        gradients, self._metrics = compute(self._loss_fn, self._data, logprobs)
        linear = [_linear(datum, gradient) for datum, gradient in zip(self._data, gradients, strict=True)]
        check_batch(linear, field="gradients")
        begin = 0
        for chunk in self._chunks:
            self._backward.append(linear[begin : begin + len(chunk)])
            begin += len(chunk)

    async def _read(self, accepted: Sequence[AcceptedRequest]) -> ForwardBackwardOutput:
        output = await fetch_passes(self._channel, accepted[len(self._chunks) :], forward_only=False)
        metrics = dict(output.metrics)
        if _SUM in metrics:
            metrics[f"surrogate_{_SUM}"] = metrics.pop(_SUM)
        return output.model_copy(update={"metrics": {**metrics, **self._metrics}})


def _for_forward(datum: Datum) -> Datum:
    targets = datum.loss_fn_inputs["target_tokens"]
    weights = datum.loss_fn_inputs.get("weights")
    if weights is None:
        import numpy as np

        weights = TensorData.from_numpy(np.ones(targets.shape or (targets.length,), dtype=np.float32))
    return _with_weights(datum, weights)


def _logprobs(record: Mapping[str, TensorData], index: int) -> Any:
    if "logprobs" not in record:
        raise MalformedAnswer(f"forward: output {index} has no logprobs", backend=BACKEND)
    return record["logprobs"].to_numpy()


def _linear(datum: Datum, gradient: Any) -> Datum:
    import numpy as np

    return _with_weights(datum, TensorData.from_numpy(np.negative(np.asarray(gradient, dtype=np.float32))))


def _with_weights(datum: Datum, weights: TensorData) -> Datum:
    """Return the datum, with its spans, as cross entropy takes it."""
    inputs = {"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": weights}
    return datum.model_copy(update={"loss_fn_inputs": inputs})


def _with_numpy(
    loss_fn: CustomLoss, data: Sequence[Datum], logprobs: Sequence[Any]
) -> tuple[Sequence[Any], dict[str, float]]:
    returned = loss_fn(data, logprobs)
    if not isinstance(returned, tuple) or len(returned) != 3 or len(returned[1]) != len(data):
        raise invalid(
            "loss_fn", type(returned).__name__, "with numpy it returns (loss, one gradient per datum, metrics)"
        )
    loss, gradients, metrics = returned
    for index, (gradient, values) in enumerate(zip(gradients, logprobs, strict=True)):
        if getattr(gradient, "shape", None) != values.shape:
            raise invalid(f"gradients[{index}]", getattr(gradient, "shape", None), f"the shape is {values.shape}")
    return gradients, {_SUM: float(loss), **{key: float(value) for key, value in metrics.items()}}


def _with_torch(
    loss_fn: CustomLoss, data: Sequence[Datum], logprobs: Sequence[Any]
) -> tuple[Sequence[Any], dict[str, float]]:
    import torch

    leaves = [torch.from_numpy(values.copy()).requires_grad_(True) for values in logprobs]
    returned = loss_fn(data, leaves)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise invalid("loss_fn", type(returned).__name__, "with torch it returns (loss, metrics)")
    loss, metrics = returned
    loss.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    values = {_SUM: float(loss.detach()), **{key: float(value) for key, value in metrics.items()}}
    return [gradient.numpy() for gradient in gradients], values
