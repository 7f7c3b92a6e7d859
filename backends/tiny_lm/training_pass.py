"""A sequence's share of a training step."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from backends.tiny_lm.adapter import Adapter
from backends.tiny_lm.losses import Config, Loss, LossFunction, evaluate
from backends.tiny_lm.network import Network


def forward_backward(
    network: Network,
    adapter: Adapter,
    tokens: NDArray[np.int64],
    *,
    loss_fn: str | LossFunction,
    inputs: Mapping[str, NDArray[np.generic]],
    config: Config,
    forward_only: bool = False,
) -> Loss:
    """Compute the loss of one sequence; unless ``forward_only``, add its gradient to the adapter's accumulators.

    Overflow and NaN pass silently, as on a GPU.
    """
    with np.errstate(all="ignore"):
        low_rank = adapter.low_rank
        trace = network.forward(tokens, low_rank)
        loss, slope = evaluate(loss_fn, trace.logprobs, inputs, config)
        if not forward_only:
            network.backward(trace, slope, low_rank, adapter.gradients())
    return loss


def single_threaded() -> AbstractContextManager[object]:
    """Limit linear algebra to one thread while the context is open, in the whole process.

    The split of a sum over threads changes its last bits, and equal seeds must give equal numbers on any number of
    cores. For matrices this small, more threads are slower as well.
    """
    limit: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limit


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
