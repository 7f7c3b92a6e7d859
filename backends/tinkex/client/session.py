"""A session at the server: created on first use and kept alive by heartbeats."""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable
from typing import Final, Literal, Self
from urllib.parse import quote

from backends.tinkex.client.requests.connection import SDK_VERSION, Connection
from backends.tinkex.errors import ClientClosed, Resource, unsupported
from backends.tinkex.types.requests import FinishSessionRequest, SessionFinishReason
from backends.tinkex.types.session import CreateSessionRequest, CreateSessionResponse
from backends.tinkex.types.wire_record import ReadRecord
from crucible.errors import CrucibleError, RunGone, Unsupported
from crucible.runtime.forks import reset_after_fork

HEARTBEAT_S: Final = 10.0
_WARN_AFTER_S: Final = 120.0
_HEARTBEAT_TIMEOUT_S: Final = 30.0
_RANDOM: Final = secrets.SystemRandom()
_log = logging.getLogger(__name__)

FinishReason = Literal["success", "errored", "interrupted"]
"""The outcome of a session, as its client reports it."""
SessionLost = Callable[[str, CrucibleError], None]


class Session:
    """A session at the server and its counters. A forked child creates its own session."""

    def __init__(
        self,
        connection: Connection,
        *,
        user_metadata: dict[str, str] | None = None,
        project_id: str | None = None,
        display_name: str | None = None,
        tags: tuple[str, ...] = (),
        heartbeat_s: float = HEARTBEAT_S,
        on_lost: SessionLost | None = None,
    ) -> None:
        self._connection = connection
        self._request = CreateSessionRequest(
            tags=list(tags),
            user_metadata=user_metadata or {},
            project_id=project_id,
            display_name=display_name,
            sdk_version=SDK_VERSION,
        )
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_lost
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self._id: str | None = None
        self._create_lock: asyncio.Lock | None = None
        self._heartbeats: asyncio.Task[None] | None = None
        self._models = itertools.count()
        self._samplers = itertools.count()
        self._custom_losses = itertools.count()
        self.custom_losses: dict[str, str] = {}
        self.lost: CrucibleError | None = None

    @classmethod
    def attach(
        cls,
        connection: Connection,
        session_id: str,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        on_lost: SessionLost | None = None,
    ) -> Self:
        """Return a session that another process created.

        Its counters are unknown, so new numbers start at a random value far from those in use.
        """
        session = cls(connection, heartbeat_s=heartbeat_s, on_lost=on_lost)
        session._id = session_id
        session._models = itertools.count(1_000_000 + secrets.randbelow(1_000_000_000))
        session._custom_losses = itertools.count(1_000_000 + secrets.randbelow(1_000_000_000))
        session._samplers = itertools.count(1_000_000 + secrets.randbelow(1_000_000_000))
        return session

    @property
    def session_id(self) -> str | None:
        """The server's id of the session; None before it is created."""
        return self._id

    def next_model_seq_id(self) -> int:
        """Return the number of the next model in this session."""
        return next(self._models)

    def next_custom_loss_seq_id(self) -> int:
        """Return the number of the next custom loss in this session."""
        return next(self._custom_losses)

    def next_sampler_seq_id(self) -> int:
        """Return the number of the next sampling session in this session."""
        return next(self._samplers)

    async def ensure(self) -> str:
        """Return the id of the live session; create it if there is none, and start its heartbeats.

        Raises:
            RunGone: the server has ended the session.
        """
        if self.lost is not None:
            raise self.lost
        if self._id is None:
            self._create_lock = self._create_lock or asyncio.Lock()
            async with self._create_lock:
                if self._id is None:
                    self._id = await self._create()
        self.keep_alive()
        return self._id

    def keep_alive(self) -> None:
        """Start heartbeats on this event loop, until ``aclose``. No-op without a live session."""
        if self._id is None or self.lost is not None:
            return
        loop = asyncio.get_running_loop()
        if self._heartbeats is None or self._heartbeats.done() or self._heartbeats.get_loop() is not loop:
            self._heartbeats = loop.create_task(self._send_heartbeats(self._id))

    async def finish(self, reason: FinishReason, detail: str | None) -> None:
        """End the session at the server, which keeps the first reason. No-op before it is created.

        Raises:
            Unsupported: the server ends sessions only when their heartbeats stop.
        """
        if self._id is None:
            return
        await self.aclose()
        request = FinishSessionRequest(reason=SessionFinishReason(type=reason), detail=detail)
        path = f"sessions/{quote(self._id, safe=':')}/finish"
        try:
            await self._connection.post(path, request.body(), ReadRecord, resource=Resource.SESSION)
        except Unsupported as error:
            raise unsupported("finishing a session", server=self._connection.server) from error

    async def aclose(self) -> None:
        """Stop the heartbeats. The server ends the session some time later."""
        heartbeats, self._heartbeats = self._heartbeats, None
        if heartbeats is not None and heartbeats.get_loop() is asyncio.get_running_loop():
            heartbeats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeats

    async def _create(self) -> str:
        # Some servers require user_metadata, so it is sent even when it is empty.
        created = await self._connection.post(
            "create_session", self._request.body(), CreateSessionResponse, resource=Resource.SERVICE
        )
        for level, message in (
            (logging.INFO, created.info_message),
            (logging.WARNING, created.warning_message),
            (logging.ERROR, created.error_message),
        ):
            if message:
                _log.log(level, "%s", message)
        return created.session_id

    async def _send_heartbeats(self, session_id: str) -> None:
        transport = self._connection.transport
        last_success = transport.clock()
        warned = False
        body = {"session_id": session_id, "type": "session_heartbeat"}
        while True:
            # Jitter spreads the heartbeats of runs that started together. It must not draw from the global
            # generator, which a script may have seeded.
            await asyncio.sleep(self._heartbeat_s * _RANDOM.uniform(0.8, 1.0))
            try:
                await self._connection.post(
                    "session_heartbeat",
                    body,
                    ReadRecord,
                    resource=Resource.SESSION,
                    retries=False,
                    read_timeout_s=_HEARTBEAT_TIMEOUT_S,
                )
                last_success, warned = transport.clock(), False
            except (Unsupported, ClientClosed):
                return
            except RunGone as error:
                self.lost = error
                if self._on_lost is not None:
                    self._on_lost(session_id, error)
                return
            except CrucibleError as error:
                silent_s = transport.clock() - last_success
                if silent_s > _WARN_AFTER_S and not warned:
                    warned = True
                    _log.warning(
                        "session %s: no heartbeat has succeeded for %.0f s: %s", session_id, silent_s, error
                    )
