"""Recovery of a training run: policy, request and outcome, events, and the loop that every backend runs."""

from crucible.recovery.events import Announcer, RecoveryEvent, RecoveryEventName, RecoveryObserver
from crucible.recovery.loop import CheckpointSource, RecoveryLoop, Restored, UnusableCheckpoint, in_order
from crucible.recovery.policy import RecoveryPolicy
from crucible.recovery.request import RecoveredRun, RecoveryRequest

__all__ = [
    "Announcer",
    "CheckpointSource",
    "RecoveredRun",
    "RecoveryEvent",
    "RecoveryEventName",
    "RecoveryLoop",
    "RecoveryObserver",
    "RecoveryPolicy",
    "RecoveryRequest",
    "Restored",
    "UnusableCheckpoint",
    "in_order",
]
