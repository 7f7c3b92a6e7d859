"""The ends of a sampling client's requests, all learnt by one long poll."""

import asyncio
from typing import Final

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.sampling.sampler_clone import CLONE_BLOCK
from backends.tinkex.errors import Resource
from backends.tinkex.types.requests import RetrieveFuturesRequest, SamplingSessionTarget
from backends.tinkex.types.responses import RetrieveFuturesResponse
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.transport import HttpRequest
from crucible.errors import CrucibleError, Unsupported

_POLL_TIMEOUT_S: Final = 45.0
_PATIENCE_S: Final = 10.0
"""The time after which a request is polled for by itself, which also shows the state of the server's queue."""
_REMEMBERED: Final = 50_000


class SessionPoll:
    """Waits for requests of one client in a sampling session: ``retrieve_futures`` names those that have ended.

    It saves a held connection per request, and nothing depends on it: where it fails, or names nothing in time,
    each request is polled for by itself. Results are never reported as retrieved, since the server would forget
    them, and a repeated sample is answered from them.
    """

    def __init__(self, connection: Connection, sampling_session_id: str, clone_id: int) -> None:
        self._connection = connection
        self._target = SamplingSessionTarget(sampling_session_id=sampling_session_id, cloned_sampler_id=clone_id)
        self._cursor = 0
        self._ended: dict[str, None] = {}
        self._waiting: dict[str, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None
        self._lacking = False

    async def wait_for(self, request_id: str, seq_id: int) -> None:
        """Return once the request has ended, or when it has to be polled for by itself."""
        named_elsewhere = seq_id // CLONE_BLOCK != self._target.cloned_sampler_id
        # the end may be learnt while the configuration is asked for
        if named_elsewhere or not await self._is_offered() or request_id in self._ended:
            return
        known = self._waiting.setdefault(request_id, asyncio.Event())
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll())
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await known.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(request_id, None)
            if not self._waiting:
                self._task.cancel()

    async def _is_offered(self) -> bool:
        return not self._lacking and (await self._connection.client_config()).sample_use_retrieve_futures

    async def _poll(self) -> None:
        try:
            while self._waiting:
                await self._poll_once()
        except CrucibleError as error:
            self._lacking = isinstance(error, Unsupported)
        finally:
            for known in self._waiting.values():
                known.set()

    async def _poll_once(self) -> None:
        request = RetrieveFuturesRequest(target=self._target, prev_cursor=self._cursor)
        sent = HttpRequest(
            "POST",
            "/api/v1/retrieve_futures",
            json_body(request.body()),
            read_timeout_s=_POLL_TIMEOUT_S,
            held=True,
        )
        answer = await self._connection.send(sent, resource=Resource.CHECKPOINT)
        found = self._connection.read(answer, RetrieveFuturesResponse, sent.route)
        self._cursor = found.cursor
        for completion in found.completions:
            self._ended[completion.request_id] = None
            known = self._waiting.pop(completion.request_id, None)
            if known is not None:
                known.set()
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
