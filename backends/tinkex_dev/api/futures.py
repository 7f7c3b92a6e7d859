"""The routes that retrieve results."""

import asyncio
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.faults import ServerQueueState
from backends.tinkex_dev.service.promises import Failed, LossOutputs, Plain, Promise, Result, Samples
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.wire.exchange import PROTOBUF, answer, read, wants_protobuf
from backends.tinkex_dev.wire.requests import RetrieveFuture, RetrieveFutures
from backends.tinkex_dev.wire.result_json import loss_outputs_json, samples_json

_PAUSED_HOLD_S: Final = 1.0
"""The time for which ``retrieve_future`` blocks while the queue is paused, so that clients know the reason soon."""


class FutureRoutes:
    """retrieve_future and retrieve_futures, long polls of up to ``hold_s``; cancel_future, which has no effect."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route("/retrieve_future", self.retrieve, methods=["POST"]),
            Route("/retrieve_futures", self.retrieve_many, methods=["POST"]),
            Route("/cancel_future", self.cancel, methods=["POST"]),
        ]

    async def retrieve(self, request: Request) -> Response:
        body = await read(request, RetrieveFuture)
        promise = self._service.promises.get(body.request_id)
        if not await self._is_done(promise):
            return self._try_again(promise)
        assert promise.result is not None
        packed = self._service.options.protobuf and wants_protobuf(request)
        return _packed(promise.result) if packed else _plain(promise.result)

    async def _is_done(self, promise: Promise) -> bool:
        """Wait for a result, for at most ``hold_s``; less if the queue is paused."""
        until = time.monotonic() + self._service.options.hold_s
        while not promise.done.is_set():
            rest = until - time.monotonic()
            try:
                await asyncio.wait_for(promise.done.wait(), min(max(rest, 0.0), _PAUSED_HOLD_S))
            except TimeoutError:
                if rest <= _PAUSED_HOLD_S or self._service.queue.state is not ServerQueueState.ACTIVE:
                    return False
        return True

    def _try_again(self, promise: Promise) -> Response:
        queue = self._service.queue
        state = {"queue_state": queue.state.value, "queue_state_reason": queue.reason}
        if self._service.options.try_again_status == 408:
            return answer({"request_id": promise.id, **state}, 408)
        return answer({"type": "try_again", "request_id": promise.id, **state})

    async def retrieve_many(self, request: Request) -> Response:
        """The requests of one client of a sampling session that ended after ``prev_cursor``."""
        body = await read(request, RetrieveFutures)
        service = self._service
        sampler = service.samplers.get(body.target.sampling_session_id)
        if sampler is None:
            raise Refused(404, f"Sampling session {body.target.sampling_session_id!r} not found")
        service.touch_session(sampler.session_id)
        for request_id in body.retrieved_request_ids:
            service.promises.drop(request_id)
        hold = service.options.hold_s if body.timeout is None else min(body.timeout, service.options.hold_s)
        client = body.target.cloned_sampler_id
        ended = await service.completions.after(sampler.id, client, body.prev_cursor, hold)
        cursor = ended[-1].cursor if ended else body.prev_cursor
        return answer({"completions": [one.body() for one in ended], "cursor": cursor})

    async def cancel(self, request: Request) -> Response:
        body = await read(request, RetrieveFuture)
        self._service.promises.get(body.request_id)
        return Response(status_code=204)


def _packed(result: Result) -> Response:
    from backends.tinkex_dev.wire.protobuf import loss_outputs_bytes, samples_bytes

    if isinstance(result, LossOutputs):
        return Response(loss_outputs_bytes(result), media_type=PROTOBUF)
    if isinstance(result, Samples):
        return Response(samples_bytes(result), media_type=PROTOBUF)
    return _plain(result)


def _plain(result: Result) -> Response:
    if isinstance(result, Failed):
        return answer({"error": result.error, "category": result.category})
    if isinstance(result, Plain):
        return answer(result.body)
    if isinstance(result, LossOutputs):
        return answer(loss_outputs_json(result))
    return answer(samples_json(result))
