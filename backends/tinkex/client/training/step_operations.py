"""The operations of a training step: forward and backward passes, and the optimizer."""

from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from backends.tinkex.client.requests.passes import send_pass
from backends.tinkex.client.requests.results import check_pass, check_step, pass_decoding
from backends.tinkex.client.training.batch_checks import check_batch
from backends.tinkex.client.training.batch_snapshot import snapshots
from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.errors import invalid
from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.optimizer import OptimParamsBase
from backends.tinkex.types.requests import OptimStepRequest
from backends.tinkex.types.responses import AcceptedRequest, OptimStepResponse
from backends.tinkex.wire.chunks import joined
from crucible.runtime.side_by_side import side_by_side

LossConfig = Mapping[str, float | str]
CUSTOM_LOSS: Final = "custom"
"""The name under which a request uses a loss that its session stored."""


def pass_operation(
    channel: RunChannel,
    data: Sequence[Datum],
    loss_fn: str,
    config: LossConfig | None,
    *,
    forward_only: bool,
    seq_id: int | None,
    vocab_size: int | None,
) -> RunOperation[ForwardBackwardOutput]:
    """Return a forward or forward_backward pass, with one request per chunk of the batch as it is now.

    Raises:
        InvalidRequest: the batch or the name of the loss is invalid.
    """
    check_batch(data, vocab_size=vocab_size, custom_loss=loss_fn == CUSTOM_LOSS)
    if not isinstance(loss_fn, str) or not loss_fn:
        raise invalid("loss_fn", loss_fn, "give the name of a loss, such as cross_entropy")
    shares = snapshots(channel.connection, data, channel.config)
    config = None if config is None else dict(config)
    channel.may_have_gradients = channel.may_have_gradients or not forward_only

    def send(seq: int, index: int) -> Coroutine[Any, Any, AcceptedRequest]:
        request = shares[index].request(channel.model_id, seq, loss_fn, config, forward_only=forward_only)
        return send_pass(channel.connection, request)

    async def read(accepted: Sequence[AcceptedRequest]) -> ForwardBackwardOutput:
        return await fetch_passes(channel, accepted, forward_only=forward_only)

    return channel.operation(len(shares), seq_id, send, read)


async def fetch_passes(
    channel: RunChannel, accepted: Sequence[AcceptedRequest], *, forward_only: bool
) -> ForwardBackwardOutput:
    """Wait for the results of a pass's requests and join them. Raises RunCorrupted for a NaN."""
    route, request_type = ("forward", "Forward") if forward_only else ("forward_backward", "ForwardBackward")

    async def fetch(request: AcceptedRequest) -> ForwardBackwardOutput:
        output = await channel.fetch(request.request_id, route, request_type, pass_decoding(route))
        return check_pass(output, channel.model_id, request.request_id)

    return joined(await side_by_side(partial(fetch, request) for request in accepted))


def optim_step_operation(
    channel: RunChannel, params: AdamParams | OptimParamsBase, seq_id: int | None
) -> RunOperation[OptimStepResponse]:
    """Return an optimizer step."""
    if not isinstance(params, AdamParams | OptimParamsBase):
        raise invalid("params", type(params).__name__, "give AdamParams, DimuonParams or an OptimParamsBase")
    adam = params if isinstance(params, AdamParams) else None
    # families beyond ours may hold lists
    other = params.model_copy(deep=True) if isinstance(params, OptimParamsBase) else None

    def body(seq: int) -> OptimStepRequest:
        return OptimStepRequest(model_id=channel.model_id, seq_id=seq, adam_params=adam, optimizer_params=other)

    def check(output: OptimStepResponse, request_id: str) -> OptimStepResponse:
        channel.may_have_gradients = False
        return check_step(output, channel.model_id, request_id)

    return channel.record_operation("optim_step", "OptimStep", OptimStepResponse, body, seq_id, check=check)
