"""Recovery of corrupted runs: a monitor that detects them, and an executor that recovers them.

The training driver uses both; ``BlockingRecovery`` offers them to scripts without an event loop.
"""

from backends.tinkex.recovery.blocking_recovery import BlockingRecovery
from backends.tinkex.recovery.checkpoints import list_candidates, validate
from backends.tinkex.recovery.executor import RecoveredClient, RecoveryExecutor
from backends.tinkex.recovery.monitor import RecoveryMonitor
from crucible.recovery import RecoveryEvent, RecoveryEventName, RecoveryPolicy

__all__ = [
    "BlockingRecovery",
    "RecoveredClient",
    "RecoveryEvent",
    "RecoveryEventName",
    "RecoveryExecutor",
    "RecoveryMonitor",
    "RecoveryPolicy",
    "list_candidates",
    "validate",
]
