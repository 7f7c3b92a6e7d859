"""Waiting for the result of an accepted request: long polls until there is a result or an error."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from backends.tinkex.client.connection import Connection, read_record
from backends.tinkex.client.queue_reporter import QueueReporter
from backends.tinkex.errors import BACKEND, Sought, error_of, failure_of, malformed
from backends.tinkex.types.future_answer import (
    CompleteMetadata,
    QueueState,
    RequestFailedResponse,
    TryAgainResponse,
)
from backends.tinkex.wire.body import JSON, PROTOBUF, json_body
from backends.tinkex.wire.features import Encoding
from backends.tinkex.wire.protobuf_read import ProtobufError
from backends.tinkex.wire.retry import is_retryable
from backends.tinkex.wire.transport import Answer, Call
from crucible.errors import BackendUnavailable, MalformedAnswer, RequestTimeout, RunCorrupted
from crucible.retry_after import retry_after_ms

T = TypeVar("T")
HANG_UP_S: Final = 45.0
_BARE_400_TRIES: Final = 3
_CUT_SHORT_TRIES: Final = 3
_QUICKEST_S: Final = 0.02
_LONGEST_NAP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Decoding(Generic[T]):
    """How a result is read. ``from_protobuf`` is None for results that never come as protobuf."""

    from_json: Callable[[Any], T]
    from_protobuf: Callable[[bytes], T] | None = None


@dataclass(frozen=True, slots=True)
class Awaited(Generic[T]):
    """An accepted request. ``no_progress_s`` bounds how long the server may leave it active without an end."""

    request_id: str
    route: str
    request_type: str
    decoding: Decoding[T]
    reporter: QueueReporter
    sought: Sought = Sought.FUTURE
    no_progress_s: float = 3600.0
    hang_up_s: float = HANG_UP_S


class ResultPoll(Generic[T]):
    """Polls for one result."""

    def __init__(self, connection: Connection, awaited: Awaited[T]) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._awaited = awaited
        self._begun = self._progress = self._transport.clock()
        self._iteration = 0
        self._bare_400 = 0
        self._bugs = self._cut_short = 0
        self._troubled_since: float | None = None
        self._troubles = 0
        self._naps = 0

    async def result(self) -> T:
        """Poll until there is a result.

        Raises:
            AnswerLost: the server no longer knows the request.
            RequestTimeout: it was left active longer than ``no_progress_s``.
            BackendUnavailable: the server could not be reached for the whole retry time.
            CrucibleError: the request failed, or the answer is malformed.
        """
        while True:
            self._check_progress()
            asked_at = self._transport.clock()
            try:
                answer = await self._transport.send(self._call())
            except RequestTimeout:
                await self._nap(asked_at)
                continue
            except BackendUnavailable as error:
                await self._back_off(error, None)
                continue
            except MalformedAnswer as error:
                self._cut_short += 1
                error.request_id = self._awaited.request_id
                if not error.details.get("cut_short") or self._cut_short >= _CUT_SHORT_TRIES:
                    raise
                await self._back_off(error, None)
                continue
            self._iteration += 1
            if answer.ok:
                self._troubled_since, self._troubles = None, 0
                found = self._found(answer)
                if found is not None:
                    return found.value
                await self._nap(asked_at)
            else:
                await self._refused(answer, asked_at)

    def _call(self) -> Call:
        decoding = self._awaited.decoding
        accept = JSON if decoding.from_protobuf is None else f"{PROTOBUF}, {JSON};q=0.5"
        return Call(
            "POST",
            "/api/v1/retrieve_future",
            json_body({"request_id": self._awaited.request_id}),
            accept=accept,
            headers={
                "X-Tinker-Request-Iteration": str(self._iteration),
                "X-Tinker-Request-Type": self._awaited.request_type,
            },
            read_timeout_s=self._awaited.hang_up_s,
            retries=False,
        )

    def _found(self, answer: Answer) -> "_Found[T] | None":
        awaited = self._awaited
        if answer.media_type == PROTOBUF and awaited.decoding.from_protobuf is not None:
            self._learn("protobuf")
            try:
                return _Found(awaited.decoding.from_protobuf(answer.content))
            except ProtobufError as error:
                raise malformed(str(error), route=awaited.route, request_id=awaited.request_id) from error
        value = self._connection.read_json(answer, awaited.route, awaited.request_id)
        if isinstance(value, dict):
            if value.get("type") == "try_again":
                self._waiting(read_record(value, TryAgainResponse, awaited.route, awaited.request_id))
                return None
            if value.get("status") == "complete_metadata":
                read_record(value, CompleteMetadata, awaited.route, awaited.request_id)
                return None
            if "error" in value and (value["error"] is not None or "category" in value):
                self._failed(read_record(value, RequestFailedResponse, awaited.route, awaited.request_id))
        if awaited.decoding.from_protobuf is not None:
            self._learn("json")
        return _Found(awaited.decoding.from_json(value))

    def _learn(self, encoding: Encoding) -> None:
        if self._connection.features.answer_encoding != encoding:
            self._connection.memory.learn(answer_encoding=encoding)

    def _failed(self, failed: RequestFailedResponse) -> None:
        raise failure_of(
            failed.error,
            failed.category,
            route=self._awaited.route,
            request_id=self._awaited.request_id,
            sought=self._awaited.sought,
        )

    async def _refused(self, answer: Answer, asked_at: float) -> None:
        awaited = self._awaited
        error = error_of(self._connection.refusal(answer, awaited.route, awaited.sought, awaited.request_id))
        error.request_id = awaited.request_id
        if answer.status == 408:
            self._troubled_since, self._troubles = None, 0
            self._waiting(self._try_again(answer))
            await self._nap(asked_at)
        elif answer.status == 400 and not _is_json(answer) and self._bare_400 < _BARE_400_TRIES:
            self._bare_400 += 1
            await self._back_off(BackendUnavailable(error.message, backend=BACKEND), None)
        elif is_retryable(answer.status) and not _is_final(error) and not self._same_bug(answer):
            await self._back_off(error, retry_after_ms(answer.headers))
        else:
            raise error

    def _same_bug(self, answer: Answer) -> bool:
        self._bugs += answer.status == 500
        return self._bugs >= self._transport.retry.attempts_at_500

    def _try_again(self, answer: Answer) -> TryAgainResponse:
        try:
            value = self._connection.read_json(answer, self._awaited.route)
            return TryAgainResponse.model_validate(value)
        except Exception:
            return TryAgainResponse()

    def _waiting(self, said: TryAgainResponse) -> None:
        now = self._transport.clock()
        if said.queue_state in (QueueState.PAUSED_CAPACITY, QueueState.PAUSED_RATE_LIMIT):
            self._progress = now
        self._awaited.reporter.waiting(
            self._awaited.route,
            self._awaited.request_id,
            said.queue_state,
            said.queue_state_reason,
            now - self._begun,
        )

    def _check_progress(self) -> None:
        idle = self._transport.clock() - self._progress
        if idle > self._awaited.no_progress_s:
            raise RequestTimeout(
                f"{self._awaited.route}: no progress for {idle:.0f} s",
                backend=BACKEND,
                request_id=self._awaited.request_id,
            )

    async def _nap(self, asked_at: float) -> None:
        """A server that answers "try again" at once is not asked in a tight loop."""
        if self._transport.clock() - asked_at >= _LONGEST_NAP_S:
            self._naps = 0
            return
        nap = min(_LONGEST_NAP_S, _QUICKEST_S * 1.5 ** min(self._naps, 20))
        self._naps += 1
        await self._transport.sleep(nap)

    async def _back_off(self, error: Exception, asked_ms: int | None) -> None:
        now = self._transport.clock()
        if self._troubled_since is None:
            self._troubled_since = now
        delay = self._transport.retry.delay_s(self._troubles, asked_ms)
        if now - self._troubled_since + delay > self._transport.retry.give_up_after_s:
            raise error
        self._troubles += 1
        await self._transport.sleep(delay)


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    value: T


def _is_json(answer: Answer) -> bool:
    return answer.content.lstrip()[:1] in (b"{", b"[", b'"')


def _is_final(error: Exception) -> bool:
    """A 5xx that says the run is poisoned will not say otherwise."""
    return isinstance(error, RunCorrupted)
