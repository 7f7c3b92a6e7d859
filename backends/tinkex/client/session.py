"""A session at the server: made on first need, kept alive by heartbeats, its counters."""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable
from typing import Final, Self

from backends.tinkex.client.connection import SDK_VERSION, Connection
from backends.tinkex.errors import Sought
from backends.tinkex.types.session import CreateSessionRequest, CreateSessionResponse
from backends.tinkex.types.wire_record import ReadRecord
from crucible.errors import CrucibleError, RunGone, Unsupported
from crucible.forks import reset_after_fork

HEARTBEAT_S: Final = 10.0
_WARN_AFTER_S: Final = 120.0
_BEAT_TIMEOUT_S: Final = 30.0
_CHANCE: Final = secrets.SystemRandom()
_log = logging.getLogger(__name__)

SessionLost = Callable[[str, CrucibleError], None]


class Session:
    """One session. A process that was forked makes its own instead of using its parent's."""

    def __init__(
        self,
        connection: Connection,
        *,
        user_metadata: dict[str, str] | None = None,
        project_id: str | None = None,
        tags: tuple[str, ...] = (),
        heartbeat_s: float = HEARTBEAT_S,
        on_lost: SessionLost | None = None,
    ) -> None:
        self._connection = connection
        self._request = CreateSessionRequest(
            tags=list(tags), user_metadata=user_metadata or {}, project_id=project_id, sdk_version=SDK_VERSION
        )
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_lost
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self._id: str | None = None
        self._making: asyncio.Lock | None = None
        self._beating: asyncio.Task[None] | None = None
        self._models = itertools.count()
        self._samplers = itertools.count()
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
        """A session that another process made. Its counters are not known, so new numbers are drawn far away."""
        session = cls(connection, heartbeat_s=heartbeat_s, on_lost=on_lost)
        session._id = session_id
        session._models = itertools.count(1_000_000 + secrets.randbelow(1_000_000_000))
        session._samplers = itertools.count(1_000_000 + secrets.randbelow(1_000_000_000))
        return session

    @property
    def session_id(self) -> str | None:
        """The server's id, once there is one."""
        return self._id

    def next_model_seq_id(self) -> int:
        """The number of the next model in this session."""
        return next(self._models)

    def next_sampler_seq_id(self) -> int:
        """The number of the next sampling session in this session."""
        return next(self._samplers)

    async def ensure(self) -> str:
        """The id of the live session; made if there is none, and beating.

        Raises:
            RunGone: the server has ended it.
        """
        if self.lost is not None:
            raise self.lost
        if self._id is None:
            self._making = self._making or asyncio.Lock()
            async with self._making:
                if self._id is None:
                    self._id = await self._make()
        self.keep_alive()
        return self._id

    def keep_alive(self) -> None:
        """Let heartbeats run on this event loop; they end with ``aclose``. Without a session, do nothing."""
        if self._id is None or self.lost is not None:
            return
        loop = asyncio.get_running_loop()
        if self._beating is None or self._beating.done() or self._beating.get_loop() is not loop:
            self._beating = loop.create_task(self._beat(self._id))

    async def aclose(self) -> None:
        """End the heartbeats; the server ends the session some time after."""
        beating, self._beating = self._beating, None
        if beating is not None and beating.get_loop() is asyncio.get_running_loop():
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    async def _make(self) -> str:
        # Some servers insist on user_metadata, so it goes out even when it is empty.
        made = await self._connection.post(
            "create_session", self._request.body(), CreateSessionResponse, sought=Sought.SERVICE
        )
        for level, message in (
            (logging.INFO, made.info_message),
            (logging.WARNING, made.warning_message),
            (logging.ERROR, made.error_message),
        ):
            if message:
                _log.log(level, "%s", message)
        return made.session_id

    async def _beat(self, session_id: str) -> None:
        transport = self._connection.transport
        alive = transport.clock()
        warned = False
        body = {"session_id": session_id, "type": "session_heartbeat"}
        while True:
            # Spread, so that runs that began together do not beat together for ever; not by the generator that a
            # script has seeded, whose numbers would then depend on the time.
            await asyncio.sleep(self._heartbeat_s * _CHANCE.uniform(0.8, 1.0))
            try:
                await self._connection.post(
                    "session_heartbeat",
                    body,
                    ReadRecord,
                    sought=Sought.SESSION,
                    retries=False,
                    read_timeout_s=_BEAT_TIMEOUT_S,
                )
                alive, warned = transport.clock(), False
            except Unsupported:
                return
            except RunGone as error:
                self.lost = error
                if self._on_lost is not None:
                    self._on_lost(session_id, error)
                return
            except CrucibleError as error:
                silent = transport.clock() - alive
                if silent > _WARN_AFTER_S and not warned:
                    warned = True
                    _log.warning("no heartbeat of session %s has arrived for %.0f s: %s", session_id, silent, error)
