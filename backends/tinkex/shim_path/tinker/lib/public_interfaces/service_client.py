"""The SDK's ``ServiceClient``."""

from backends.tinkex.compat.service_client import ServiceClient as ServiceClient
