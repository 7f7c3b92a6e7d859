"""Bringing corrupted runs back: a monitor that notices, an executor that recovers; the driver uses both."""

from backends.tinkex.recovery.announcer import Announcer
from backends.tinkex.recovery.executor import RecoveredClient, RecoveryExecutor
from backends.tinkex.recovery.monitor import RecoveryMonitor
from backends.tinkex.recovery.selection import list_candidates, validate
from crucible.recovery import RecoveryEvent, RecoveryEventName, RecoveryPolicy

__all__ = [
    "Announcer",
    "RecoveredClient",
    "RecoveryEvent",
    "RecoveryEventName",
    "RecoveryExecutor",
    "RecoveryMonitor",
    "RecoveryPolicy",
    "list_candidates",
    "validate",
]
