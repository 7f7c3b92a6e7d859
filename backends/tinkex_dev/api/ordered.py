"""Reading of the requests of a model, which run in seq_id order: a refused one frees its seq_id."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from starlette.requests import Request

from backends.tinkex_dev.errors import InvalidField, OperationFailed, Refused
from backends.tinkex_dev.service.run import ServerRun
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.wire.exchange import parse, read_body
from backends.tinkex_dev.wire.requests import RequestBody

_THREAD_FROM_BYTES: Final = 64 * 1024
"""Bigger bodies are decoded in a thread, so that they do not block the event loop."""
B = TypeVar("B", bound=RequestBody)
T = TypeVar("T")


async def read_ordered(service: Service, request: Request, kind: type[B]) -> B:
    """Read and validate a body as :func:`parse_ordered`."""
    return await parse_ordered(service, await read_body(request), kind)


async def parse_ordered(service: Service, data: bytes, kind: type[B]) -> B:
    """Validate a body. A refused one does not block the later requests of its model.

    Raises:
        InvalidField: it is not JSON, or a field is missing, unknown or invalid.
    """
    try:
        return await decode(len(data), lambda: parse(data, kind))
    except InvalidField:
        _skip_if_named(service, data)
        raise


def _skip_if_named(service: Service, data: bytes) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(data)
        if isinstance(body, dict):
            model_id, seq_id = body.get("model_id"), body.get("seq_id")
            run = service.live.get(model_id) if isinstance(model_id, str) else None
            if run is not None and isinstance(seq_id, int):
                run.lane.skip(seq_id)


@contextlib.contextmanager
def refusal_skips(run: ServerRun, seq_id: int | None) -> Iterator[None]:
    """Release the seq_id of a request that is refused within, so that it does not block later ones."""
    try:
        yield
    except (Refused, OperationFailed):
        if seq_id is not None:
            run.lane.skip(seq_id)
        raise


async def decode(size: int, work: Callable[[], T]) -> T:
    """Run a decoder, in a thread for a big body."""
    return work() if size < _THREAD_FROM_BYTES else await asyncio.to_thread(work)
