# One import a name: read by type checkers and, at run time, by crucible.runtime.lazy_names.
from backends.tinkex import types as types
from backends.tinkex.backend import TinkexBackend as TinkexBackend
from backends.tinkex.client.custom_losses.loss_handle import LossHandle as LossHandle
from backends.tinkex.client.requests.api_future import ApiFuture as ApiFuture
from backends.tinkex.client.requests.queue_reporter import QueueReport as QueueReport
from backends.tinkex.client.rest.client import RestClient as RestClient
from backends.tinkex.client.sampling.client import SamplingClient as SamplingClient
from backends.tinkex.client.service import ServiceClient as ServiceClient
from backends.tinkex.client.training.client import TrainingClient as TrainingClient
from backends.tinkex.recovery import BlockingRecovery as BlockingRecovery
from backends.tinkex.recovery import RecoveredClient as RecoveredClient
from backends.tinkex.recovery import RecoveryExecutor as RecoveryExecutor
from backends.tinkex.recovery import RecoveryMonitor as RecoveryMonitor
from backends.tinkex.settings import TinkexSettings as TinkexSettings
from backends.tinkex.wire.features import ServerFeatures as ServerFeatures
from backends.tinkex.wire.retry import RetryConfig as RetryConfig
from crucible.recovery import RecoveryPolicy as RecoveryPolicy

__all__: list[str]
