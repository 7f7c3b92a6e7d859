"""The SDK's ``RestClient``."""

from backends.tinkex.compat.rest_client import RestClient as RestClient
