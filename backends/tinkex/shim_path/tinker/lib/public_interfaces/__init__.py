"""The clients of the Tinker SDK."""

from backends.tinkex.compat.futures import APIFuture as APIFuture
from backends.tinkex.compat.rest_client import RestClient as RestClient
from backends.tinkex.compat.sampling_client import SamplingClient as SamplingClient
from backends.tinkex.compat.service_client import ServiceClient as ServiceClient
from backends.tinkex.compat.training_client import TrainingClient as TrainingClient
