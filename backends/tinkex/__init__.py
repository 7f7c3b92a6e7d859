"""tinkex: the Tinker training API. Clients, recovery, and the backend of that name.

Everything is imported when it is first used: importing this package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from backends.tinkex import types as types
    from backends.tinkex.backend import TinkexBackend as TinkexBackend
    from backends.tinkex.client.api_future import ApiFuture as ApiFuture
    from backends.tinkex.client.queue_reporter import QueueReport as QueueReport
    from backends.tinkex.client.rest import RestClient as RestClient
    from backends.tinkex.client.sampling import SamplingClient as SamplingClient
    from backends.tinkex.client.service import ServiceClient as ServiceClient
    from backends.tinkex.client.training import TrainingClient as TrainingClient
    from backends.tinkex.recovery import RecoveryExecutor as RecoveryExecutor
    from backends.tinkex.recovery import RecoveryMonitor as RecoveryMonitor
    from backends.tinkex.settings import TinkexSettings as TinkexSettings
    from backends.tinkex.wire.features import ServerFeatures as ServerFeatures
    from backends.tinkex.wire.retry import RetryConfig as RetryConfig
    from crucible.recovery import RecoveryPolicy as RecoveryPolicy

_HOME: Final = {
    "ApiFuture": "backends.tinkex.client.api_future",
    "QueueReport": "backends.tinkex.client.queue_reporter",
    "RecoveryExecutor": "backends.tinkex.recovery",
    "RecoveryMonitor": "backends.tinkex.recovery",
    "RecoveryPolicy": "crucible.recovery",
    "RestClient": "backends.tinkex.client.rest",
    "RetryConfig": "backends.tinkex.wire.retry",
    "SamplingClient": "backends.tinkex.client.sampling",
    "ServerFeatures": "backends.tinkex.wire.features",
    "ServiceClient": "backends.tinkex.client.service",
    "TinkexBackend": "backends.tinkex.backend",
    "TinkexSettings": "backends.tinkex.settings",
    "TrainingClient": "backends.tinkex.client.training",
}

__all__ = sorted([*_HOME, "types"])


def __getattr__(name: str) -> Any:
    if name == "types":
        return importlib.import_module("backends.tinkex.types")
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
