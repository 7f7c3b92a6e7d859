"""The methods of a service client that make custom losses."""

import hashlib
import inspect
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, Literal

from pydantic_core import to_json

from backends.tinkex.client.custom_losses.loss_handle import DatumLoss, LossHandle
from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.queue_reporter import QueueReporter
from backends.tinkex.client.requests.result_poll import PollTarget, ResultPoll
from backends.tinkex.client.requests.results import record_decoding
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.session import Session
from backends.tinkex.errors import Resource, invalid, unsupported
from backends.tinkex.types.requests import CreateCustomLossRequest, CustomLossGraph, CustomLossInput
from backends.tinkex.types.responses import CreateCustomLossResponse
from backends.tinkex.wire.body import EncodedBody, json_body

Rank = Literal[0, 1, 2]
_MAX_INPUTS: Final = 16
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_ROUTE: Final = "create_custom_loss"


class CustomLossMethods:
    """Creation of custom losses: a base class of ``ServiceClient``, which provides the session."""

    connection: Connection
    runner: Runner
    no_progress_s: float
    _session: Session

    def create_custom_loss(
        self, loss: DatumLoss | CustomLossGraph, input_ranks: Mapping[str, Rank], *, name: str | None = None
    ) -> ApiFuture[LossHandle]:
        """Make a loss for ``TrainingClient.forward_backward_custom`` in this client's session.

        ``loss(logprobs, *inputs)`` is a function of torch tensors of one example that returns its scalar loss and
        its metrics; it is traced. Without torch, give the graph itself. ``input_ranks`` has the rank of each
        parameter in order, ``logprobs`` first; the others are keys of ``loss_fn_inputs``. A server whose
        configuration says ``custom_loss_server_side`` stores the graph; elsewhere the client computes a function.

        Raises (at once): InvalidRequest for names, ranks or a function that cannot be traced; Unsupported without
        torch. From the future: Unsupported for a graph on a server that computes no custom losses.
        """
        return self.runner.start(self._creation(loss, input_ranks, name)())

    def create_custom_loss_async(
        self, loss: DatumLoss | CustomLossGraph, input_ranks: Mapping[str, Rank], *, name: str | None = None
    ) -> Coroutine[Any, Any, LossHandle]:
        """As ``create_custom_loss``; returns the handle."""
        creation = self._creation(loss, input_ranks, name)

        async def started() -> LossHandle:
            return await self.runner.start(creation())

        return started()

    def _creation(
        self, loss: DatumLoss | CustomLossGraph, input_ranks: Mapping[str, Rank], name: str | None
    ) -> Callable[[], Coroutine[Any, Any, LossHandle]]:
        """The creation of a loss as it is now."""
        inputs = _inputs(loss, input_ranks)
        if isinstance(loss, CustomLossGraph):
            return partial(self._create_loss, name or "loss", inputs, loss.model_copy(deep=True), None)
        from backends.tinkex.client.custom_losses.loss_tracer import traced_graph

        title = name or str(getattr(loss, "__name__", type(loss).__name__))
        return partial(self._create_loss, title, inputs, traced_graph(loss, title), loss)

    async def _create_loss(
        self, name: str, inputs: tuple[CustomLossInput, ...], graph: CustomLossGraph, function: DatumLoss | None
    ) -> LossHandle:
        session_id = await self._session.ensure()
        if not (await self.connection.client_config()).custom_loss_server_side:
            if function is None:
                raise unsupported("the computation of custom losses", server=self.connection.server)
            return LossHandle(name, inputs, session_id, None, function)
        key = hashlib.sha256(to_json([name, inputs, graph])).hexdigest()
        losses = self._session.custom_losses
        if key not in losses:
            losses[key] = await self._upload_loss(session_id, name, inputs, graph)
        return LossHandle(name, inputs, session_id, losses[key], function)

    async def _upload_loss(
        self, session_id: str, name: str, inputs: tuple[CustomLossInput, ...], graph: CustomLossGraph
    ) -> str:
        request = CreateCustomLossRequest(
            session_id=session_id,
            custom_loss_seq_id=self._session.next_custom_loss_seq_id(),
            name=name,
            inputs=list(inputs),
            graph=graph,
        )
        accepted = await self.connection.submit(_ROUTE, _body(request), resource=Resource.SESSION)
        target = PollTarget(
            accepted.request_id,
            _ROUTE,
            "CreateCustomLoss",
            record_decoding(CreateCustomLossResponse, _ROUTE),
            QueueReporter(None, self.connection.transport.clock, name),
            no_progress_s=self.no_progress_s,
        )
        return (await ResultPoll(self.connection, target).result()).loss_id


def _body(request: CreateCustomLossRequest) -> EncodedBody:
    # not without None: that of an argument of the graph is part of it
    return json_body(request.model_dump(mode="json"))


def _inputs(loss: DatumLoss | CustomLossGraph, ranks: Mapping[str, Rank]) -> tuple[CustomLossInput, ...]:
    names = list(ranks)
    if not isinstance(loss, CustomLossGraph):
        found = inspect.signature(loss).parameters.values()
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if any(one.kind not in plain or one.default is not one.empty for one in found):
            raise invalid("loss", names, "its parameters are positional and without defaults")
        names = [one.name for one in found]
        if set(names) != set(ranks):
            raise invalid("input_ranks", sorted(ranks), f"the ranks of the parameters {', '.join(names)}")
    if names[:1] != ["logprobs"] or ranks["logprobs"] not in (1, 2):
        raise invalid("input_ranks", dict(ranks), "logprobs comes first, with rank 1 or 2")
    if len(names) > _MAX_INPUTS or not all(_NAME.fullmatch(one) and ranks[one] in (0, 1, 2) for one in names):
        raise invalid("input_ranks", dict(ranks), f"at most {_MAX_INPUTS} lowercase names with rank 0, 1 or 2")
    return tuple(CustomLossInput(name=one, rank=ranks[one]) for one in names)
