"""Telling an observer what happens to a run, under the names ``tinkex.recovery.*``."""

import inspect
import logging

from pydantic import JsonValue

from crucible.recovery import RecoveryEvent, RecoveryEventName, RecoveryObserver

_log = logging.getLogger(__name__)


class Announcer:
    """Gives each event to ``observe``. An observer that raises is logged, and stops nothing."""

    def __init__(self, observe: RecoveryObserver | None = None) -> None:
        self._observe = observe

    async def __call__(self, name: RecoveryEventName, run_id: str, **details: JsonValue) -> None:
        event = RecoveryEvent(name=f"tinkex.recovery.{name}", run_id=run_id, details=details)
        _log.debug("%s of run %s: %s", event.name, run_id, details)
        if self._observe is None:
            return
        try:
            answer = self._observe(event)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            _log.exception("the observer of %s failed", event.name)
