"""Answers that are not there yet: what a mutating call returns the name of."""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.model.network import Array
from backends.tinkex_dev.model.sampling import Drawn, PromptScores

_KEPT: Final = 50_000
_KEPT_BYTES: Final = 256 * 1024 * 1024
_PREFIX: Final = "req-"


@dataclass(frozen=True, slots=True)
class Plain:
    """A result that is small JSON."""

    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """The result of a forward or forward_backward: arrays, encoded when someone asks, as they ask."""

    outputs: Sequence[Mapping[str, Array]]
    metrics: Mapping[str, float]

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(value.nbytes for output in self.outputs for value in output.values())


@dataclass(frozen=True, slots=True)
class Samples:
    """The result of asample."""

    sequences: Sequence[Drawn]
    prompt: PromptScores | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The operation failed, and whose fault that is: ``user``, ``server`` or ``unknown``."""

    error: str
    category: str


Result = Plain | LossOutputs | Samples | Failed


@dataclass(slots=True)
class Promise:
    """One operation's answer, now or later."""

    id: str
    kind: str
    model_id: str | None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    result: Result | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def keep(self, result: Result) -> None:
        """Give the answer; everyone who waits is told."""
        self.result = result
        self.done.set()

    @property
    def size(self) -> int:
        """About how many bytes its answer holds."""
        return self.result.size if isinstance(self.result, LossOutputs) else 0

    def receipt(self) -> dict[str, object]:
        """What the mutating call itself is answered with."""
        named = {"model_id": self.model_id} if self.model_id else {}
        return {"request_id": self.id, **named, **self.extra}


class Promises:
    """All promises of this server process. The oldest answers are dropped, and asking for one is then 410."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Promise] = OrderedDict()
        self._bytes = 0

    def make(self, kind: str, model_id: str | None = None) -> Promise:
        """A new promise, not yet kept."""
        promise = Promise(f"{_PREFIX}{uuid.uuid4().hex}", kind, model_id)
        self._by_id[promise.id] = promise
        if len(self._by_id) > _KEPT:
            self._drop_oldest()
        return promise

    def keep(self, promise: Promise, result: Result) -> None:
        """Keep a promise; if too much is then held, the oldest answers are dropped."""
        promise.keep(result)
        self._bytes += promise.size
        while self._bytes > _KEPT_BYTES and self._drop_oldest():
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
        promise.result = None  # a run's record of requests still holds the promise

    def get(self, request_id: str) -> Promise:
        """The promise of that name.

        Raises:
            Refused: 410 if it was forgotten or made by an earlier server process, 404 if it is no such name.
        """
        promise = self._by_id.get(request_id)
        if promise is not None:
            return promise
        if request_id.startswith(_PREFIX):
            raise Refused(410, f"Promise {request_id} has expired; its answer is not kept any more")
        raise Refused(404, f"Future {request_id!r} not found")

    def forget(self, model_id: str | None = None) -> int:
        """Drop kept answers, of one model or of all; says how many."""
        gone = [p for p in self._by_id.values() if p.done.is_set() and model_id in (None, p.model_id)]
        for promise in gone:
            self._drop(promise)
        return len(gone)
