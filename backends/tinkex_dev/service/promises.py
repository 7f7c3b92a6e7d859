"""Promises of results: a mutating call answers with the id of one, ``retrieve_future`` with its result."""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.errors import Refused
from backends.tiny_lm.network import Array
from backends.tiny_lm.sampler import PromptScores, SampledTokens

_MAX_PROMISES: Final = 50_000
_MAX_BYTES: Final = 256 * 1024 * 1024
_PREFIX: Final = "req-"


@dataclass(frozen=True, slots=True)
class Plain:
    """A result that is a small JSON object."""

    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """The result of a forward or forward_backward: arrays, encoded when they are retrieved."""

    outputs: Sequence[Mapping[str, Array]]
    metrics: Mapping[str, float]

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(value.nbytes for output in self.outputs for value in output.values())


@dataclass(frozen=True, slots=True)
class PromptTargets:
    """Log-probabilities of chosen tokens of the prompt, ``[prompt length - 1, K]``, dense or sparse."""

    logprobs: NDArray[np.float32]
    crow: NDArray[np.int64] | None = None
    columns: NDArray[np.int64] | None = None
    shape: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Samples:
    """The result of asample."""

    sequences: Sequence[SampledTokens]
    prompt: PromptScores | None = None
    targets: PromptTargets | None = None
    alternatives: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The failure of an operation. ``category`` is ``user``, ``server`` or ``unknown``."""

    error: str
    category: str


Result = Plain | LossOutputs | Samples | Failed


@dataclass(slots=True)
class Promise:
    """The result of one operation, now or later."""

    id: str
    kind: str
    model_id: str | None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    result: Result | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def resolve(self, result: Result) -> None:
        """Set the result and wake all waiters."""
        self.result = result
        self.done.set()

    @property
    def size(self) -> int:
        """Approximate bytes of the result."""
        return self.result.size if isinstance(self.result, LossOutputs) else 0

    def receipt(self) -> dict[str, object]:
        """The answer to the mutating call itself."""
        model = {"model_id": self.model_id} if self.model_id else {}
        return {"request_id": self.id, **model, **self.extra}


class Promises:
    """All promises of this server process.

    Beyond a number or a size limit the oldest results are dropped; retrieving one is then 410.
    """

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Promise] = OrderedDict()
        self._bytes = 0

    def create(self, kind: str, model_id: str | None = None) -> Promise:
        """Create an unresolved promise."""
        promise = Promise(f"{_PREFIX}{uuid.uuid4().hex}", kind, model_id)
        self._by_id[promise.id] = promise
        if len(self._by_id) > _MAX_PROMISES:
            self._drop_oldest()
        return promise

    def resolve(self, promise: Promise, result: Result) -> None:
        """Resolve a promise, then drop the oldest results beyond the size limit."""
        promise.resolve(result)
        self._bytes += promise.size
        while self._bytes > _MAX_BYTES and self._drop_oldest():
            pass

    def _drop_oldest(self) -> bool:
        oldest = next(iter(self._by_id.values()))
        if not oldest.done.is_set():
            return False
        self._drop(oldest)
        return True

    def _drop(self, promise: Promise) -> None:
        del self._by_id[promise.id]
        self._bytes -= promise.size
        promise.result = None  # a run's record of requests still refers to the promise

    def get(self, request_id: str) -> Promise:
        """The promise of that id.

        Raises:
            Refused: 410 if it was dropped or created by an earlier server process, 404 for a malformed id.
        """
        promise = self._by_id.get(request_id)
        if promise is not None:
            return promise
        if request_id.startswith(_PREFIX):
            raise Refused(410, f"Promise {request_id} has expired; its result was dropped")
        raise Refused(404, f"Future {request_id!r} not found")

    def drop(self, request_id: str) -> None:
        """Drop a result that its client has read, if it is there."""
        promise = self._by_id.get(request_id)
        if promise is not None and promise.done.is_set():
            self._drop(promise)

    def is_known(self, request_id: str) -> bool:
        """The promise is still stored."""
        return request_id in self._by_id

    def drop_resolved(self, model_id: str | None = None) -> int:
        """Drop all results, or those of one model; returns their number."""
        resolved = [p for p in self._by_id.values() if p.done.is_set() and model_id in (None, p.model_id)]
        for promise in resolved:
            self._drop(promise)
        return len(resolved)
