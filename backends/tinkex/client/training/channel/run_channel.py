"""The request channel of one remote run: ordered sending, heartbeats and result polling."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.connection import Connection, named_unsupported
from backends.tinkex.client.requests.queue_reporter import QueueReporter
from backends.tinkex.client.requests.request_context import RequestContext
from backends.tinkex.client.requests.result_poll import Decoding, PollTarget, ResultPoll
from backends.tinkex.client.requests.results import record_decoding
from backends.tinkex.client.session import Session
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.client.training.channel.sequencer import RequestSequencer
from backends.tinkex.errors import Resource
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.responses import AcceptedRequest
from backends.tinkex.types.wire_record import SentRecord
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.features import ServerFeatures
from crucible.errors import InvalidRequest

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)
Submission = Coroutine[Any, Any, ApiFuture[T]]
"""Awaiting it sends an operation and returns its future once the server has accepted every request."""
ServerFields = Callable[[Connection], Awaitable[dict[str, Any]]]
_OPTIONAL_FIELDS: Final = ("overwrite", "ttl_seconds")


class RunChannel:
    """Sends the operations of one run in call order and polls for their results."""

    def __init__(
        self,
        context: RequestContext,
        *,
        model_id: str,
        session: Session,
        config: ClientConfig,
        next_seq_id: int = 1,
    ) -> None:
        self._context = context
        self._reporter = QueueReporter(context.observer, context.connection.transport.clock, model_id)
        self.connection = context.connection
        self.model_id = model_id
        self.session = session
        self.config = config
        self.sequencer = RequestSequencer(
            next_seq_id,
            one_at_a_time=lambda: context.connection.features.replays_seq_id is False,
            orders=lambda: _may_send_ahead(context.connection.features),
        )
        self.may_have_gradients = False
        """The model may hold gradients that no optimizer step has used."""

    async def keep_alive(self) -> None:
        """Start the session's heartbeats on this event loop."""
        self.session.keep_alive()

    def start(self, operation: RunOperation[T]) -> ApiFuture[T]:
        """Queue an operation and return its future."""
        return self._result(operation, self._sending(operation))

    async def submit(self, operation: RunOperation[T]) -> ApiFuture[T]:
        """Queue an operation and return its future once the server has accepted every request."""
        sending = self._sending(operation)
        try:
            await sending
        except BaseException:
            operation.abandon()
            raise
        return self._result(operation, sending)

    def start_probe(self, work: Coroutine[Any, Any, T]) -> ApiFuture[T]:
        """Start work that sends requests of its own. It goes on when its future is canceled."""
        started = self._context.runner.start(work)

        async def result() -> T:
            return await started

        return self._context.runner.start(result())

    def _sending(self, operation: RunOperation[T]) -> ApiFuture[None]:
        with self.sequencer.lock:
            return self._context.runner.start(operation.send(operation.reserve()))

    def _result(self, operation: RunOperation[T], sending: ApiFuture[None]) -> ApiFuture[T]:
        future = self._context.runner.start(operation.finish(sending), request_ids=lambda: operation.request_ids)
        # not in the coroutine: one that is canceled before it begins runs nothing
        future.add_done_callback(operation.abandon)
        return future

    def operation(
        self,
        count: int,
        seq_id: int | None,
        send_request: Callable[[int, int], Coroutine[Any, Any, AcceptedRequest]],
        read_result: Callable[[Sequence[AcceptedRequest]], Coroutine[Any, Any, T]],
    ) -> RunOperation[T]:
        """Return an operation of ``count`` requests on this run."""
        return RunOperation(self.sequencer, count, seq_id, send_request, read_result, self.keep_alive)

    def record_operation(
        self,
        route: str,
        request_type: str,
        kind: type[R],
        body: Callable[[int], SentRecord],
        seq_id: int | None,
        *,
        resource: Resource = Resource.RUN,
        check: Callable[[R, str], R] = lambda record, request_id: record,
        server_fields: ServerFields | None = None,
    ) -> RunOperation[R]:
        """Return an operation of one JSON request whose result is a record of type ``kind``.

        ``check(record, request_id)`` validates the result. ``server_fields`` returns fields that only some servers
        have.
        """

        async def send(seq: int, _: int) -> AcceptedRequest:
            repeatable = self.connection.features.replays_seq_id is not False
            fields = body(seq).body()
            if server_fields is not None:
                fields |= await server_fields(self.connection)
            try:
                return await self.connection.submit(
                    route, json_body(fields), resource=resource, repeatable=repeatable
                )
            except InvalidRequest as error:
                raise named_unsupported(error, _OPTIONAL_FIELDS, self.connection.server) from error

        async def read(accepted: Sequence[AcceptedRequest]) -> R:
            request_id = accepted[0].request_id
            record = await self.fetch(request_id, route, request_type, record_decoding(kind, route))
            return check(record, request_id)

        return self.operation(1, seq_id, send, read)

    async def fetch(self, request_id: str, route: str, request_type: str, decoding: Decoding[T]) -> T:
        """Wait for the result of an accepted request."""
        target = PollTarget(
            request_id, route, request_type, decoding, self._reporter, no_progress_s=self._context.no_progress_s
        )
        return await ResultPoll(self.connection, target).result()


def _may_send_ahead(known: ServerFeatures) -> bool:
    # a server that refuses the encoding may free the number, so the encoding is settled before
    return known.orders_seq_id is True and known.replays_seq_id is True and known.request_encoding is not None
