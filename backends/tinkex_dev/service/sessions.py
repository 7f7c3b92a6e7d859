"""Client sessions, which end when they are idle for too long."""

import uuid

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.storage.records import SessionRecord
from backends.tinkex_dev.storage.state_folder import StateFolder


class Sessions:
    """All sessions of the state folder, and the idle times of the open ones. After a restart none is open."""

    def __init__(self, folder: StateFolder, clock: ServerClock, *, ttl_s: float) -> None:
        self._folder = folder
        self._clock = clock
        self._ttl_s = ttl_s
        self._last_seen: dict[str, float] = {}
        self.records = {session.id: session for session in folder.sessions()}

    def open(self, **facts: object) -> SessionRecord:
        """Open a session."""
        session = SessionRecord.model_validate({"id": uuid.uuid4().hex, "created_at": self._clock.now(), **facts})
        self.records[session.id] = session
        self._folder.save_session(session)
        self.touch(session.id)
        return session

    def get(self, session_id: str) -> SessionRecord:
        """The session of that id.

        Raises:
            Refused: 404 if it does not exist.
        """
        session = self.records.get(session_id)
        if session is None:
            raise Refused(404, f"Session {session_id!r} not found")
        return session

    def get_open(self, session_id: str) -> SessionRecord:
        """The open session of that id.

        Raises:
            Refused: 404 if it does not exist or has ended.
        """
        session = self.get(session_id)
        if session_id not in self._last_seen:
            raise Refused(404, f"Session {session_id!r} has ended; create a new one")
        return session

    def touch(self, session_id: str) -> None:
        """Reset a session's idle time."""
        self._last_seen[session_id] = self._clock.seconds()

    def end(self, session_id: str) -> None:
        """End a session."""
        self._last_seen.pop(session_id, None)

    def finish(self, session_id: str, reason: str, detail: str | None) -> None:
        """Record how a client finished a session. The first reason stays.

        Raises:
            Refused: 404 if the session does not exist.
        """
        session = self.get(session_id)
        if session.finished is None:
            self.records[session_id] = session.model_copy(update={"finished": reason, "finish_detail": detail})
            self._folder.save_session(self.records[session_id])

    def open_ids(self) -> list[str]:
        """The ids of the open sessions."""
        return list(self._last_seen)

    def stale_ids(self) -> list[str]:
        """The ids of the open sessions that are idle for longer than their time to live."""
        limit = self._clock.seconds() - self._ttl_s
        return [session_id for session_id, last_seen in self._last_seen.items() if last_seen < limit]
