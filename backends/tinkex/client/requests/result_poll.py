"""Long polling for the result of an accepted request."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from backends.tinkex.client.requests.connection import Connection, decode_record
from backends.tinkex.client.requests.queue_reporter import QueueReporter
from backends.tinkex.errors import (
    BACKEND,
    Resource,
    error_from_failed_request,
    error_from_response,
    malformed,
)
from backends.tinkex.types.future_answer import (
    CompleteMetadata,
    QueueState,
    RequestFailedResponse,
    TryAgainResponse,
)
from backends.tinkex.wire.body import JSON, PROTOBUF, json_body
from backends.tinkex.wire.features import Encoding
from backends.tinkex.wire.protobuf.field_reader import ProtobufError
from backends.tinkex.wire.retry import is_retryable
from backends.tinkex.wire.transport import HttpRequest, HttpResponse
from crucible.errors import BackendUnavailable, CrucibleError, MalformedAnswer, RequestTimeout, RunCorrupted
from crucible.http.retry_after import retry_after_ms
from crucible.runtime.waits import Wait, WaitCause, waiting

T = TypeVar("T")
_POLL_TIMEOUT_S: Final = 45.0
_PENDING_S: Final = 2.5
"""The time after which a missing result is reported as a wait."""
_MAX_BARE_400: Final = 3
_MAX_TRUNCATED: Final = 3
_POLL_MIN_S: Final = 0.02
_POLL_MAX_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Decoding(Generic[T]):
    """The decoders of a result. ``from_protobuf`` is None for results that never come as protobuf."""

    from_json: Callable[[Any], T]
    from_protobuf: Callable[[bytes], T] | None = None


@dataclass(frozen=True, slots=True)
class PollTarget(Generic[T]):
    """An accepted request and how to decode its result.

    ``no_progress_s`` bounds how long the server may keep it active without finishing it.
    """

    request_id: str
    route: str
    request_type: str
    decoding: Decoding[T]
    reporter: QueueReporter
    resource: Resource = Resource.FUTURE
    no_progress_s: float = 3600.0


_STATUS_OF_FAILED: Final = frozenset({400, 422, 500})
"""With these, repeated where they may be transient, a server answers for a request that it accepted and failed."""


class ResultPoll(Generic[T]):
    """Polls ``retrieve_future`` for one result."""

    def __init__(self, connection: Connection, target: PollTarget[T]) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._target = target
        self._started_at = self._progress_at = self._transport.clock()
        self._iteration = 0
        self._bare_400 = 0
        self._status_500 = 0
        self._truncated = 0
        self._failing_since: float | None = None
        self._failures = 0
        self._quick_polls = 0
        self._wait = Wait(None)

    async def result(self) -> T:
        """Poll until the request has finished and return its result.

        Raises:
            AnswerLost: the server no longer knows the request.
            RequestTimeout: the request was active for longer than ``no_progress_s``.
            BackendUnavailable: the server could not be reached for the whole retry time.
            CrucibleError: the request failed, or the response is malformed.
        """
        loop = asyncio.get_running_loop()
        with waiting() as self._wait:
            timer = loop.call_later(_PENDING_S, self._report_slow)
            try:
                return await self._poll()
            finally:
                timer.cancel()

    async def _poll(self) -> T:
        while True:
            self._check_progress()
            sent_at = self._transport.clock()
            try:
                response = await self._transport.send(self._request())
            except RequestTimeout:
                await self._wait_after(sent_at)
                continue
            except BackendUnavailable as error:
                await self._back_off(error, None)
                continue
            except MalformedAnswer as error:
                self._truncated += 1
                error.request_id = self._target.request_id
                if not error.details.get("cut_short") or self._truncated >= _MAX_TRUNCATED:
                    raise
                await self._back_off(error, None)
                continue
            self._iteration += 1
            if response.ok:
                self._failing_since, self._failures = None, 0
                result = self._read(response)
                if result is not None:
                    return result.value
                await self._wait_after(sent_at)
            else:
                await self._handle_error(response, sent_at)

    def _request(self) -> HttpRequest:
        decoding = self._target.decoding
        accept = JSON if decoding.from_protobuf is None else f"{PROTOBUF}, {JSON};q=0.5"
        return HttpRequest(
            "POST",
            "/api/v1/retrieve_future",
            json_body({"request_id": self._target.request_id}),
            accept=accept,
            headers={
                "X-Tinker-Request-Iteration": str(self._iteration),
                "X-Tinker-Request-Type": self._target.request_type,
            },
            read_timeout_s=_POLL_TIMEOUT_S,
            retries=False,
            held=True,
        )

    def _read(self, response: HttpResponse) -> "_Result[T] | None":
        """Return the result in a response; None while the request is pending. Raises when it has failed."""
        target = self._target
        if response.media_type == PROTOBUF and target.decoding.from_protobuf is not None:
            self._learn("protobuf")
            try:
                return _Result(target.decoding.from_protobuf(response.content))
            except ProtobufError as error:
                raise malformed(str(error), route=target.route, request_id=target.request_id) from error
        value = self._connection.read_json(response, target.route, target.request_id)
        if isinstance(value, dict):
            if value.get("type") == "try_again":
                self._report_waiting(decode_record(value, TryAgainResponse, target.route, target.request_id))
                return None
            if value.get("status") == "complete_metadata":
                decode_record(value, CompleteMetadata, target.route, target.request_id)
                return None
            if "error" in value and (value["error"] is not None or "category" in value):
                self._raise_failed(decode_record(value, RequestFailedResponse, target.route, target.request_id))
        if target.decoding.from_protobuf is not None:
            self._learn("json")
        return _Result(target.decoding.from_json(value))

    def _learn(self, encoding: Encoding) -> None:
        if self._connection.features.answer_encoding != encoding:
            self._connection.memory.learn(answer_encoding=encoding)

    def _raise_failed(self, failed: RequestFailedResponse) -> None:
        raise error_from_failed_request(
            failed.error,
            failed.category,
            route=self._target.route,
            request_id=self._target.request_id,
            resource=self._target.resource,
        )

    async def _handle_error(self, response: HttpResponse, sent_at: float) -> None:
        """Wait before the next poll after an error response; raise when polling again cannot help."""
        target = self._target
        error = error_from_response(
            self._connection.error_response(response, target.route, target.resource, target.request_id)
        )
        error.request_id = target.request_id
        if response.status == 408:
            self._failing_since, self._failures = None, 0
            self._report_waiting(self._try_again(response))
            await self._wait_after(sent_at)
        elif response.status == 400 and not _is_json(response) and self._bare_400 < _MAX_BARE_400:
            self._bare_400 += 1
            await self._back_off(BackendUnavailable(error.message, backend=BACKEND), None)
        elif (
            is_retryable(response.status)
            and not isinstance(error, RunCorrupted)
            and not self._is_persistent_500(response)
        ):
            await self._back_off(error, retry_after_ms(response.headers))
        else:
            if response.status in _STATUS_OF_FAILED:
                error.details["on_record"] = True
            raise error

    def _is_persistent_500(self, response: HttpResponse) -> bool:
        self._status_500 += response.status == 500
        return self._status_500 >= self._transport.retry.attempts_at_500

    def _try_again(self, response: HttpResponse) -> TryAgainResponse:
        try:
            value = self._connection.read_json(response, self._target.route)
            return TryAgainResponse.model_validate(value)
        except Exception:
            return TryAgainResponse()

    def _report_waiting(self, pending: TryAgainResponse) -> None:
        now = self._transport.clock()
        if pending.queue_state in (QueueState.PAUSED_CAPACITY, QueueState.PAUSED_RATE_LIMIT):
            self._progress_at = now
            reason = pending.queue_state_reason or "the service gives no reason"
            where = f"{self._target.route}: {pending.queue_state} at {self._connection.server}"
            self._wait.because(f"{where}: {reason}", WaitCause.LIMIT)
        elif self._wait.reason is not None:
            self._report_pending()
        self._target.reporter.waiting(
            self._target.route,
            self._target.request_id,
            pending.queue_state,
            pending.queue_state_reason,
            now - self._started_at,
        )

    def _report_slow(self) -> None:
        if self._wait.reason is None:
            self._report_pending()

    def _report_pending(self) -> None:
        reason = f"{self._target.route}: no result yet from {self._connection.server}"
        self._wait.because(reason, WaitCause.RESULT)

    def _check_progress(self) -> None:
        idle = self._transport.clock() - self._progress_at
        if idle > self._target.no_progress_s:
            raise RequestTimeout(
                f"{self._target.route}: no progress for {idle:.0f} s",
                backend=BACKEND,
                request_id=self._target.request_id,
            )

    async def _wait_after(self, sent_at: float) -> None:
        """Wait before the next poll, so that a server without long polling is not polled in a tight loop."""
        if self._transport.clock() - sent_at >= _POLL_MAX_S:
            self._quick_polls = 0
            return
        delay = min(_POLL_MAX_S, _POLL_MIN_S * 1.5 ** min(self._quick_polls, 20))
        self._quick_polls += 1
        await self._transport.sleep(delay)

    async def _back_off(self, error: Exception, requested_ms: int | None) -> None:
        """Wait before the next poll after a failure; raise ``error`` once the retry time has passed."""
        now = self._transport.clock()
        if self._failing_since is None:
            self._failing_since = now
        delay = self._transport.retry.delay_s(self._failures, requested_ms)
        if now - self._failing_since + delay > self._transport.retry.give_up_after_s:
            raise error
        self._failures += 1
        text = error.message if isinstance(error, CrucibleError) else str(error)
        self._wait.because(f"{text} ({self._connection.server})", WaitCause.of(error))
        await self._transport.sleep(delay)


@dataclass(frozen=True, slots=True)
class _Result(Generic[T]):
    value: T


def _is_json(response: HttpResponse) -> bool:
    return response.content.lstrip()[:1] in (b"{", b"[", b'"')
