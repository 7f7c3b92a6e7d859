"""The SDK's ``SamplingClient``."""

from backends.tinkex.compat.sampling_client import SamplingClient as SamplingClient
