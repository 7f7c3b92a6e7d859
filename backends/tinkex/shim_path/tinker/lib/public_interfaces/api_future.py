"""The SDK's ``APIFuture``."""

from backends.tinkex.compat.futures import APIFuture as APIFuture
