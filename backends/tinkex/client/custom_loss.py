"""Losses of the caller's own: forward, the caller's gradient, and a linear loss that has just that gradient.

The server's cross entropy is L = sum(-logprobs * weights). Its gradient by the log-probabilities is -weights, so
weights = -dC/dlogprobs makes the server's gradient that of the caller's loss C.
"""

import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from backends.tinkex.client.batch_checks import check_batch
from backends.tinkex.client.operation import Operation
from backends.tinkex.client.passes import send_pass
from backends.tinkex.client.results import check_pass, pass_decoding
from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.chunking import chunked, joined
from backends.tinkex.wire.pass_request_codec import PassRequest
from crucible.errors import MalformedAnswer

if TYPE_CHECKING:
    from backends.tinkex.client.training import TrainingClient

CustomLoss = Callable[[Sequence[Datum], Sequence[Any]], tuple[Any, ...]]
_LOSS: Final = "cross_entropy"


def custom_operation(
    client: "TrainingClient", data: Sequence[Datum], loss_fn: CustomLoss, arrays: str | None
) -> Operation[ForwardBackwardOutput]:
    """The forward pass, the loss and the backward pass as one operation: nothing comes between them.

    Raises:
        InvalidRequest: a datum has no ``target_tokens``, or ``arrays`` is not numpy or torch.
    """
    check_batch(data)
    for index, datum in enumerate(data):
        if "target_tokens" not in datum.loss_fn_inputs:
            raise invalid(f"data[{index}].loss_fn_inputs", sorted(datum.loss_fn_inputs), "target_tokens is needed")
    kind = arrays or ("torch" if "torch" in sys.modules else "numpy")
    if kind not in ("numpy", "torch"):
        raise invalid("arrays", arrays, "allowed are numpy and torch")
    return _CustomPass(client, data, loss_fn, kind).operation()


class _CustomPass:
    """Twice as many requests as the batch has chunks: the first half forward, the second half backward."""

    def __init__(self, client: "TrainingClient", data: Sequence[Datum], loss_fn: CustomLoss, kind: str) -> None:
        self._client = client
        self._data = data
        self._loss_fn = loss_fn
        self._kind = kind
        self._chunks = chunked([_for_forward(datum) for datum in data], client.config)
        self._forward: list[AcceptedRequest] = []
        self._backward: list[Sequence[Datum]] = []
        self._metrics: dict[str, float] = {}

    def operation(self) -> Operation[ForwardBackwardOutput]:
        client = self._client
        return Operation(client.lane, 2 * len(self._chunks), None, self._send, self._read, client.keep_alive)

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
        request = PassRequest(self._client.model_id, seq_id, data, _LOSS, None, forward_only)
        return await send_pass(self._client.service.connection, request)

    async def _apply_loss(self) -> None:
        output = joined([await self._fetch(request, "Forward") for request in self._forward])
        if len(output.loss_fn_outputs) != len(self._data):
            raise MalformedAnswer(
                f"forward: {len(output.loss_fn_outputs)} outputs for {len(self._data)} datums", backend=BACKEND
            )
        logprobs = [_logprobs(record, index) for index, record in enumerate(output.loss_fn_outputs)]
        run = _with_torch if self._kind == "torch" else _with_numpy
        gradients, self._metrics = run(self._loss_fn, self._data, logprobs)
        linear = [_linear(datum, gradient) for datum, gradient in zip(self._data, gradients, strict=True)]
        check_batch(linear, field="gradients")
        begin = 0
        for chunk in self._chunks:
            self._backward.append(linear[begin : begin + len(chunk)])
            begin += len(chunk)

    async def _read(self, accepted: Sequence[AcceptedRequest]) -> ForwardBackwardOutput:
        backward = accepted[len(self._chunks) :]
        output = joined([await self._fetch(request, "ForwardBackward") for request in backward])
        return output.model_copy(update={"metrics": {**output.metrics, **self._metrics}})

    async def _fetch(self, request: AcceptedRequest, kind: str) -> ForwardBackwardOutput:
        route = "forward" if kind == "Forward" else "forward_backward"
        output = await self._client.fetch(request.request_id, route, kind, pass_decoding(route))
        return check_pass(output, self._client.model_id, request.request_id)


def _for_forward(datum: Datum) -> Datum:
    targets = datum.loss_fn_inputs["target_tokens"]
    weights = datum.loss_fn_inputs.get("weights")
    if weights is None:
        import numpy as np

        weights = TensorData.from_numpy(np.ones(targets.shape or (targets.length,), dtype=np.float32))
    return Datum(model_input=datum.model_input, loss_fn_inputs={"target_tokens": targets, "weights": weights})


def _logprobs(record: Mapping[str, TensorData], index: int) -> Any:
    if "logprobs" not in record:
        raise MalformedAnswer(f"forward: output {index} has no logprobs", backend=BACKEND)
    return record["logprobs"].to_numpy()


def _linear(datum: Datum, gradient: Any) -> Datum:
    import numpy as np

    weights = np.negative(np.asarray(gradient, dtype=np.float32))
    return Datum(
        model_input=datum.model_input,
        loss_fn_inputs={
            "target_tokens": datum.loss_fn_inputs["target_tokens"],
            "weights": TensorData.from_numpy(weights),
        },
    )


def _with_numpy(
    loss_fn: CustomLoss, data: Sequence[Datum], logprobs: Sequence[Any]
) -> tuple[Sequence[Any], dict[str, float]]:
    answer = loss_fn(data, logprobs)
    if not isinstance(answer, tuple) or len(answer) != 3 or len(answer[1]) != len(data):
        raise invalid(
            "loss_fn", type(answer).__name__, "with numpy it returns (loss, one gradient for each datum, metrics)"
        )
    for index, (gradient, values) in enumerate(zip(answer[1], logprobs, strict=True)):
        if getattr(gradient, "shape", None) != values.shape:
            raise invalid(f"gradients[{index}]", getattr(gradient, "shape", None), f"the shape is {values.shape}")
    return answer[1], {"loss": float(answer[0]), **{key: float(value) for key, value in answer[2].items()}}


def _with_torch(
    loss_fn: CustomLoss, data: Sequence[Datum], logprobs: Sequence[Any]
) -> tuple[Sequence[Any], dict[str, float]]:
    import torch

    leaves = [torch.from_numpy(values.copy()).requires_grad_(True) for values in logprobs]
    answer = loss_fn(data, leaves)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise invalid("loss_fn", type(answer).__name__, "with torch it returns (loss, metrics)")
    loss, metrics = answer
    loss.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    found = {"loss": float(loss.detach()), **{key: float(value) for key, value in metrics.items()}}
    return [gradient.numpy() for gradient in gradients], found
